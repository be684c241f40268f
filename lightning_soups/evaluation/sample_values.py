"""The test metric sample by sample: seen in a pass over the loader's own batches, or measured in batches of one."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed
from torchmetrics import Metric

from lightning_soups.evaluation.kept_loop import KeptLoop
from lightning_soups.evaluation.log_spy import LogSpy
from lightning_soups.evaluation.order import Outcomes, Watch
from lightning_soups.evaluation.outputs import Outputs
from lightning_soups.evaluation.regroup import Batches, Regroup, nothing, regroup
from lightning_soups.evaluation.structure import flatten, unflatten

_ROUNDING = 1e-5  # relative, of float32 sums
_OVER_BATCHES = 1e-4  # of a mean over batches as well


class SeenInPassing:
    """Watches a full pass and judges each sample by the predictions that the module's metrics are updated with.

    Each sample is right or wrong, and has a loss. Which of these the reported metric is of, if any, shows in the mean;
    where the means of several are the same, as those of right and wrong are at one half, in those of other passes.

    Args:
        loop: The kept loop, running.
        names: What the module calls the metric, for each dataloader.
        refuted: Numbers the kinds whose mean was not the metric of some model on some dataset; added to by each pass.

    Attributes:
        batches: Of the pass, in order: the index of the dataloader and the number of samples.
    """

    def __init__(self, loop: KeptLoop, names: Sequence[str], refuted: set[int]) -> None:
        self._watch = Watch(loop.trainer.lightning_module)
        self._spy = LogSpy(loop.trainer.lightning_module)
        self._names = names
        self._refuted = refuted
        self._outcomes: list[list[Outcomes | None]] = [[] for _ in names]
        self.batches: list[tuple[int, int]] = []

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Watch while the block runs."""
        with self._watch(), self._spy():
            yield

    def after_batch(self, dataloader: int, batch: int, rows: int) -> bool:
        """Note how the module did; never ends the pass."""
        logged = self._spy.values.get(self._names[dataloader])
        self._outcomes[dataloader].append(self._watch.take(rows, logged if isinstance(logged, Metric) else None))
        self.batches.append((dataloader, rows))
        return False

    def values(self, wholes: Sequence[float]) -> list[Tensor | None]:
        """The metric of each sample of each dataloader, of all processes; every process must call this.

        Args:
            wholes: The metric of all samples of each dataloader.

        Returns:
            Float64, shape (n,), with the metric as their mean; None when it is the mean of nothing that was seen, or
            may be the mean of several things.
        """
        seen = [_of_all_processes(self._kinds(outcomes), dim=1) for outcomes in self._outcomes]
        for kinds, whole in zip(seen, wholes, strict=True):
            if kinds is not None and math.isfinite(whole):
                self._refuted |= {i for i, kind in enumerate(kinds) if not _is_mean(whole, kind, _ROUNDING)}
        return [
            None if kinds is None or not math.isfinite(whole) else self._only_one(kinds)
            for kinds, whole in zip(seen, wholes, strict=True)
        ]

    def _kinds(self, outcomes: Sequence[Outcomes | None]) -> Tensor | None:
        """What each sample may count as: right, wrong, its loss."""
        found = [one for one in outcomes if one is not None]
        if not found or len(found) < len(outcomes):
            return None
        wrong, loss = (torch.cat([getattr(one, kind) for one in found]).double() for kind in ("wrong", "loss"))
        return torch.stack([1 - wrong, wrong, loss])

    def _only_one(self, kinds: Tensor) -> Tensor | None:
        left = [kind for index, kind in enumerate(kinds) if index not in self._refuted]
        return left[0] if left and all(torch.equal(left[0], other) for other in left[1:]) else None


class OneByOne:
    """Measures in a pass in batches of one sample.

    Args:
        loop: The kept loop, running, after its first full pass.
        names: What the module calls the metric, for each dataloader.
        start_afresh: Resets the module's metrics.
    """

    def __init__(self, loop: KeptLoop, names: Sequence[str], start_afresh: Callable[[], None]) -> None:
        self._spy = LogSpy(loop.trainer.lightning_module)
        self._names = names
        self._start_afresh = start_afresh
        self._values: list[list[float]] = [[] for _ in names]
        self._rows = loop.rows
        pairs = zip(loop.loaders or [], loop.rows, strict=False)
        self._sources: list[Regroup | None] = [regroup(loader, rows) for loader, rows in pairs]

    def parts(self) -> list[Batches]:
        """What the loop is to visit: nothing of dataloaders whose samples cannot be told apart."""
        return [
            nothing() if source is None else source([[row] for row in range(rows)])
            for source, rows in zip(self._sources, self._rows, strict=True)
        ]

    def split(self, outputs: Outputs, batches: Sequence[tuple[int, int]]) -> Outputs | None:
        """What was put out for whole batches, as it would be for :meth:`parts`.

        Args:
            outputs: Of every call in a full pass.
            batches: Of that pass: the index of the dataloader and the number of samples.

        Returns:
            None when there was not one call for each batch, with a row for each sample.
        """
        if len(outputs) != len(batches):
            return None
        single: Outputs = []
        for output, (dataloader, rows) in zip(outputs, batches, strict=True):
            leaves, structure = flatten(output)
            if not all(isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == rows for leaf in leaves):
                return None
            if self._sources[dataloader] is not None:
                single += [unflatten([leaf[row : row + 1] for leaf in leaves], structure) for row in range(rows)]
        return single

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Listen while the block runs."""
        with self._spy():
            yield

    def after_batch(self, dataloader: int, batch: int, rows: int) -> bool:
        """Note the value of the only sample; never ends the pass."""
        self._values[dataloader].append(_of_one_sample(self._spy.values.pop(self._names[dataloader], math.nan)))
        self._start_afresh()
        return False

    def values(self, dataloader: int, whole: float) -> Tensor | None:
        """The metric of each sample, of all processes; every process must call this.

        Args:
            dataloader: The index of the samples' dataloader.
            whole: The metric of all of them.

        Returns:
            Float64, shape (n,), with the metric as their mean; None when it is no mean over samples.
        """
        own = self._values[dataloader]
        values = _of_all_processes(torch.tensor(own, dtype=torch.float64) if own else None, dim=0)
        return values if values is not None and _is_mean(whole, values, _OVER_BATCHES) else None


def in_fixed_order(loop: KeptLoop) -> bool:
    """Whether every pass gives the same batches, as far as can be seen."""
    return all(loader.store is not None or not loader.changes() for loader in loop.loaders or [])


def _of_one_sample(logged: Any) -> float:
    """A number as it was logged; of a metric what this process has seen since its reset."""
    if not isinstance(logged, Metric):
        return float(logged)
    gathers, logged.sync_on_compute = logged.sync_on_compute, False
    try:
        value = logged.compute()
    finally:
        logged.sync_on_compute = gathers
    return float(value) if isinstance(value, Tensor) and value.numel() == 1 else math.nan


def _is_mean(whole: float, values: Tensor, rounding: float) -> bool:
    scale = max(abs(whole), float(values.abs().mean()))
    return math.isfinite(scale) and abs(float(values.mean()) - whole) <= rounding * scale


def _of_all_processes(own: Tensor | None, dim: int) -> Tensor | None:
    """Put together what all processes have, in their order; None when one has nothing."""
    everyone: list[Tensor | None] = [own]
    if distributed.is_available() and distributed.is_initialized():
        everyone = [None] * distributed.get_world_size()
        distributed.all_gather_object(everyone, own)
    found = [one for one in everyone if one is not None]
    return torch.cat(found, dim) if len(found) == len(everyone) else None
