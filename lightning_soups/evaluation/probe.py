"""A probe: samples that were hard so far, regrouped into batches of their own."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_soups.evaluation.kept_loop import KeptLoop
from lightning_soups.evaluation.monitored import MonitoredSums, gather, on_all_processes
from lightning_soups.evaluation.order import Difficulty, Outcomes, Watch
from lightning_soups.evaluation.regroup import nothing, regroup

_SMALLEST_BATCH = 8  # smaller ones take as much time
_WIDEST = 0.6  # share of the samples from which on a probe costs more than it saves


@dataclass(frozen=True)
class BatchRecord:
    """What was noted after one batch of a full pass.

    Args:
        dataloader: Index of the dataloader.
        rows: How many samples the batch had.
        outcomes: How the module did on them, when that could be seen.
        sums: This process's monitored sums after the batch.
    """

    dataloader: int
    rows: int
    outcomes: Outcomes | None
    sums: Tensor | None


def outcomes_in(records: Sequence[BatchRecord]) -> Outcomes | None:
    """The outcomes of some batches, one after the other; None when those of a sample are missing."""
    found = [record.outcomes for record in records]
    if not found or None in found:
        return None
    return Outcomes(
        torch.cat([one.wrong for one in found if one is not None]),
        torch.cat([one.loss for one in found if one is not None]),
    )


class Probe:
    """Knows which samples of this process are hard, and can make passes over any of them.

    Samples are numbered in the order of a full pass, through all dataloaders.

    Args:
        loop: The kept loop, running.
        monitored: The sums that a probe adds up.
        first: The first full pass, batch by batch.

    Attributes:
        ready: Whether probes can be made; the same on all processes.
        difficulty: How hard each sample has been; None when that cannot be seen.
    """

    def __init__(self, loop: KeptLoop, monitored: MonitoredSums, first: Sequence[BatchRecord]) -> None:
        assert loop.loaders is not None
        self._loop = loop
        self._monitored = monitored
        rows = [sum(one.rows for one in first if one.dataloader == index) for index in range(len(loop.loaders))]
        self._starts = [sum(rows[:index]) for index in range(len(rows))]
        self._dataloader = torch.arange(len(rows)).repeat_interleave(torch.tensor(rows))
        self._sources = [regroup(loader, count) for loader, count in zip(loop.loaders, rows, strict=True)]
        counted = range(len(rows)) if monitored.dataloader is None else [monitored.dataloader]
        self._counted = torch.cat([torch.arange(rows[index]) + self._starts[index] for index in counted])
        outcomes = outcomes_in(first)
        self.difficulty = Difficulty(outcomes) if outcomes is not None else None
        able = outcomes is not None and all(self._sources[index] is not None for index in counted)
        self.ready = on_all_processes(loop, able)
        sizes = gather(loop, [max(one.rows for one in first), len(self._counted)])
        self._batch_size, self._samples = int(sizes[:, 0].max()), int(sizes[:, 1].min())
        # in low precision the shape of a batch can decide a near tie, so it stays as it is in full passes
        self._same_shape = loop.trainer.precision not in ("32-true", "64-true")

    def check(self, prepare: Callable[[], None], first: Sequence[BatchRecord]) -> None:
        """Visit the samples of the first batch in other batches; unless the sums are the same, probes are not ready.

        It notices modules whose outputs for a sample depend on what else is in the batch.

        Args:
            prepare: Makes the module what it was in the last full pass.
            first: That pass, batch by batch.
        """
        batch = next((one for one in first if self._monitored.dataloader in (None, one.dataloader)), None)
        able = self.ready and batch is not None and batch.rows > 1 and batch.sums is not None and bool(batch.sums.any())
        self.ready = on_all_processes(self._loop, able)
        if not self.ready:
            return
        assert batch is not None
        assert batch.sums is not None
        assert self.difficulty is not None
        start = self._starts[batch.dataloader]
        samples = self.difficulty.hardest_first(torch.arange(start, start + batch.rows))
        third = max(1, batch.rows // 3)
        prepare()
        self._visit([samples[:third], samples[third:]], lambda *_: False)
        sums, bound = self._monitored.own, self._monitored.bound
        assert sums is not None
        assert bound is not None
        self.ready = on_all_processes(self._loop, torch.allclose(sums, batch.sums, rtol=bound.rounding, atol=0))

    def run(self, prepare: Callable[[], None], hopeless: Callable[[], bool]) -> None:
        """Visit hard samples, the hardest first, until the candidate is hopeless or enough of them were seen.

        Args:
            prepare: Makes the module the candidate.
            hopeless: Asked after every batch, on all processes.
        """
        groups = self._groups()
        difficulty = self.difficulty
        assert difficulty is not None
        watch = Watch.of(self._loop.trainer.lightning_module, self._monitored.metric)
        left = iter(groups)

        def after_batch(dataloader: int, batch: int, rows: int) -> bool:
            samples, outcomes = next(left), watch.take(rows)
            if outcomes is not None:
                difficulty.note(samples, outcomes)
            return hopeless()

        if groups:
            prepare()
            with watch():
                self._visit(groups, after_batch)

    def _visit(self, groups: list[Tensor], after_batch: Callable[[int, int, int], bool]) -> None:
        parts = [nothing() for _ in self._sources]
        for index, source in enumerate(self._sources):
            own = [(group - self._starts[index]).tolist() for group in groups if self._dataloader[group[0]] == index]
            if own:
                assert source is not None
                parts[index] = source(own)

        def reading(dataloader: int, batch: int, rows: int) -> bool:
            self._monitored.read(dataloader)
            return after_batch(dataloader, batch, rows)

        self._monitored.begin()
        self._loop.one_pass(parts, reading)

    def _groups(self) -> list[Tensor]:
        """The samples worth a look, in batches; as many batches on every process."""
        assert self.difficulty is not None
        order = self.difficulty.hardest_first(self._counted)
        mass = self.difficulty.incumbent[order].cumsum(dim=0)
        needed = 1 + int((mass < 0.95 * mass[-1]).sum())  # samples with nearly all of the incumbent's errors
        needed = int(gather(self._loop, [needed]).max())
        limit = 2 * needed + math.ceil(0.05 * self._samples) + _SMALLEST_BATCH
        if limit > _WIDEST * self._samples:
            return []
        order = order[:limit]
        groups = [
            group
            for index in range(len(self._sources))
            for group in self._batches(order[self._dataloader[order] == index], needed)
        ]
        return groups[: int(gather(self._loop, [len(groups)]).min())]

    def _batches(self, samples: Tensor, needed: int) -> Iterator[Tensor]:
        """Cut samples into batches: first what it takes at least, then few at a time."""
        start = 0
        while start < len(samples):
            size = self._batch_size
            if not self._same_shape:
                size = min(size, max(_SMALLEST_BATCH, start // 8 if start else needed))
            yield samples[start : start + size]
            start += size
