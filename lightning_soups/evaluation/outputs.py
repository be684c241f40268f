"""What a module, or a part of it, puts out: recorded in one pass, and averaged over models in another."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_soups.evaluation.structure import flatten, unflatten

Outputs = list[Any]
"""The outputs of every call of a pass, in order, on CPU."""


class OutputTap:
    """Stands in for the ``forward`` of a module or of one of its submodules.

    The calls of one pass are told apart by their order, which is the same in every pass over the same batches.

    Args:
        module: The module.
        outputs_of: The name of the submodule whose outputs are averaged; empty for the module's own ``forward``.

    Raises:
        MisconfigurationException: There is no such submodule.
    """

    def __init__(self, module: LightningModule, outputs_of: str) -> None:
        names = [name for name, _ in module.named_modules()]
        if outputs_of not in names:
            raise MisconfigurationException(
                f"`outputs_of` must name a submodule of {type(module).__name__}, got {outputs_of!r}. There are:"
                f" {names[1:]}."
            )
        self._name = outputs_of
        self._target = module.get_submodule(outputs_of)
        self._warned = False

    @contextmanager
    def record(self) -> Iterator[Outputs]:
        """Note what is put out while the block runs; the list is complete when it ends."""
        outputs: Outputs = []
        original = self._target.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            leaves, structure = flatten(result)
            outputs.append(unflatten(map(_to_cpu, leaves), structure))
            return result

        with self._instead(forward):
            yield outputs
        if not outputs:
            raise MisconfigurationException(
                f"An ensemble averages the outputs of {self._called}, but test_step never called it. Name the submodule"
                " whose outputs (logits, usually) to average as `outputs_of`."
            )

    @contextmanager
    def play(self, models: Sequence[Outputs], weights: Sequence[float], device: torch.device) -> Iterator[None]:
        """Put out the weighted sums of recorded outputs while the block runs; nothing is computed.

        Args:
            models: What was recorded of each model, in passes over the same batches.
            weights: One number for each.
            device: Where outputs are expected.

        Raises:
            MisconfigurationException: Models were called a different number of times, now or when they were recorded,
                put out tensors of different shapes, or put out something else than numbers that depends on the model.
        """
        uneven = MisconfigurationException(
            f"An ensemble averages the outputs of {self._called} call by call, but how often test_step calls it depends"
            " on what it puts out. Name a submodule that is called equally often by all models as `outputs_of`."
        )
        if len({len(outputs) for outputs in models}) > 1:
            raise uneven
        calls = iter(zip(*models, strict=True))

        def forward(*args: Any, **kwargs: Any) -> Any:
            results = next(calls, None)
            if results is None:  # not StopIteration, which would end the pass as if the data were over
                raise uneven
            return self._weighted(results, weights, device)

        with self._instead(forward):
            yield
        if next(calls, None) is not None:
            raise uneven

    @property
    def _called(self) -> str:
        return f"the submodule {self._name!r}" if self._name else "`forward`"

    @contextmanager
    def _instead(self, forward: Callable[..., Any]) -> Iterator[None]:
        own = vars(self._target).get("forward")
        vars(self._target)["forward"] = forward
        try:
            yield
        finally:
            del vars(self._target)["forward"]
            if own is not None:
                vars(self._target)["forward"] = own

    def _weighted(self, results: Sequence[Any], weights: Sequence[float], device: torch.device) -> Any:
        """Sum floating-point and complex tensors, at any depth; the rest has to be the same for all models."""
        flat = [flatten(result) for result in results]
        leaves, structure = flat[0]
        if any(other != structure or _shapes(others) != _shapes(leaves) for others, other in flat):
            raise MisconfigurationException(
                "The models of an ensemble put out tensors of different shapes, or in different structures, for the"
                " same batch, which cannot be averaged. Name a submodule whose outputs can be, as `outputs_of`."
            )
        numbers = [leaf for leaf in leaves if _is_summed(leaf)]
        if len(flat) > 1 and not numbers:
            raise MisconfigurationException(
                f"An ensemble averages the outputs of {self._called}, which put out no floating-point tensors, or none"
                f" that can be found in: {sorted({type(leaf).__name__ for leaf in leaves})}. Name a submodule that puts"
                " out logits as `outputs_of`."
            )
        if len(flat) > 1 and not self._warned and any(leaf.ndim == 0 for leaf in numbers):
            self._warned = True
            rank_zero_warn(
                f"{self._called} puts out single numbers, a loss perhaps. An ensemble averages them as numbers: that is"
                " the mean of its members' losses, not the loss of their averaged logits. Name the submodule that puts"
                " out logits as `outputs_of` to get the ensemble's own."
            )
        summed = []
        for index, leaf in enumerate(leaves):
            everyone = [others[index] for others, _ in flat]
            if _is_summed(leaf):
                wide = torch.complex128 if leaf.is_complex() else torch.float64
                total = torch.zeros(leaf.shape, dtype=wide)
                for weight, one in zip(weights, everyone, strict=True):
                    total += weight * one.to(wide)
                leaf = total.to(leaf.dtype)
            elif not all(_same(leaf, one) for one in everyone[1:]):
                raise MisconfigurationException(
                    f"An ensemble averages the outputs of {self._called}, but they hold a {type(leaf).__name__} that is"
                    " no floating-point tensor and differs between models: labels, perhaps. Name a submodule that puts"
                    " out nothing but logits as `outputs_of`."
                )
            summed.append(leaf.to(device) if isinstance(leaf, Tensor) else leaf)
        return unflatten(summed, structure)


def _to_cpu(leaf: Any) -> Any:
    return leaf.detach().to("cpu", copy=True) if isinstance(leaf, Tensor) else leaf


def _is_summed(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    try:
        return bool(one == other)
    except ValueError:  # arrays have no single answer
        return False


def _shapes(leaves: Sequence[Any]) -> list[Any]:
    return [leaf.shape if isinstance(leaf, Tensor) else None for leaf in leaves]
