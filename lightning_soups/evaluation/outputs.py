"""What a module, or a part of it, puts out: recorded in one pass, and averaged over models in another."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

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

    @contextmanager
    def record(self) -> Iterator[Outputs]:
        """Note what is put out while the block runs; the list is complete when it ends."""
        outputs: Outputs = []
        original = self._target.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            outputs.append(tree_map(_to_cpu, result))
            return result

        with self._instead(forward):
            yield outputs
        if not outputs:
            called = f"the submodule {self._name!r}" if self._name else "`forward`"
            raise MisconfigurationException(
                f"An ensemble averages the outputs of {called}, but test_step never called it. Name the submodule whose"
                " outputs (logits, usually) to average as `outputs_of`."
            )

    @contextmanager
    def play(self, models: Sequence[Outputs], weights: Sequence[float], device: torch.device) -> Iterator[None]:
        """Put out the weighted sums of recorded outputs while the block runs; nothing is computed.

        Args:
            models: What was recorded of each model, in passes over the same batches.
            weights: One number for each.
            device: Where outputs are expected.
        """
        calls = iter(zip(*models, strict=True))

        def forward(*args: Any, **kwargs: Any) -> Any:
            return _weighted(next(calls), weights, device)

        with self._instead(forward):
            yield

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


def _to_cpu(leaf: Any) -> Any:
    return leaf.detach().to("cpu", copy=True) if isinstance(leaf, Tensor) else leaf


def _weighted(results: Sequence[Any], weights: Sequence[float], device: torch.device) -> Any:
    """Sum floating-point tensors, at any depth of lists and dicts; take anything else from the first model."""
    flat = [tree_flatten(result) for result in results]
    leaves, spec = flat[0]
    summed = []
    for index, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            pairs = zip(weights, flat, strict=True)
            total = sum(
                (weight * other[index].double() for weight, (other, _) in pairs), start=torch.zeros(()).double()
            )
            leaf = total.to(leaf.dtype)
        summed.append(leaf.to(device) if isinstance(leaf, Tensor) else leaf)
    return tree_unflatten(summed, spec)
