"""A probe: samples that were hard so far, regrouped into batches of their own."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor

from lightning_soups.evaluation.kept_loop import KeptLoop
from lightning_soups.evaluation.monitored import MonitoredSums, gather, on_all_processes
from lightning_soups.evaluation.order import Difficulty, Watch
from lightning_soups.evaluation.pass_record import BatchRecord, losses_explain, outcomes_in
from lightning_soups.evaluation.regroup import nothing, regroup

_SMALLEST_BATCH = 8  # smaller ones take as much time
_WIDEST = 0.6  # share of the samples from which on a probe costs more than it saves


class Probe:
    """Knows which samples of this process are hard, and can make passes over any of them.

    Samples are numbered in the order of a full pass, through all dataloaders.

    Args:
        loop: The kept loop, running.
        watch: Sees how the module does on samples.
        monitored: The sums that a probe adds up.
        first: The first full pass, batch by batch.

    Attributes:
        ready: Whether probes can be made; the same on all processes.
        difficulty: How hard each sample has been; None when that cannot be seen.
    """

    def __init__(self, loop: KeptLoop, watch: Watch, monitored: MonitoredSums, first: Sequence[BatchRecord]) -> None:
        assert loop.loaders is not None
        self._loop = loop
        self._watch = watch
        self._monitored = monitored
        rows = [sum(one.rows for one in first if one.dataloader == index) for index in range(len(loop.loaders))]
        self._starts = [sum(rows[:index]) for index in range(len(rows))]
        self._dataloader = torch.arange(len(rows)).repeat_interleave(torch.tensor(rows))
        self._sources = [regroup(loader, count) for loader, count in zip(loop.loaders, rows, strict=True)]
        counted = range(len(rows)) if monitored.dataloader is None else [monitored.dataloader]
        self._counted = torch.cat([torch.arange(rows[index]) + self._starts[index] for index in counted])
        outcomes = outcomes_in(first, monitored.dataloader)
        assert monitored.bound is not None
        self.difficulty = Difficulty(outcomes, by_loss=monitored.bound.observed) if outcomes is not None else None
        able = outcomes is not None and not outcomes.depends_on_batch
        able = able and all(self._sources[index] is not None for index in counted)
        self.ready = on_all_processes(loop, able)
        sizes = gather(loop, [max(one.rows for one in first), len(self._counted)])
        self._batch_size, self._samples = int(sizes[:, 0].max()), int(sizes[:, 1].min())
        self._balance = 0  # samples saved by probes so far, the same on all processes
        self._limit = 0
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
        try:
            again = self._visit([samples[:third], samples[third:]], lambda: False)
        except Exception as error:  # whatever a step raises on batches of other sizes, it need not take them
            rank_zero_info(f"Held-out samples stay in the dataloader's own batches, because of: {error!r}")
            again = []
        sums, bound = self._monitored.own, self._monitored.bound
        assert bound is not None
        same = bool(again) and sums is not None and torch.allclose(sums, batch.sums, rtol=bound.rounding, atol=0)
        same = same and self.difficulty.is_as_at_first(samples, outcomes_in(again), 0.1 if self._same_shape else 1e-3)
        self.ready = on_all_processes(self._loop, same)

    def run(self, prepare: Callable[[], None], hopeless: Callable[[], bool]) -> None:
        """Visit hard samples, the hardest first, until the candidate is hopeless or enough of them were seen.

        Args:
            prepare: Makes the module the candidate.
            hopeless: Asked after every batch, on all processes.
        """
        assert self.difficulty is not None
        groups = self._groups() if self._balance >= -self._samples / 2 else []  # else they cost more than they save
        if not groups:
            return
        prepare()
        rejected = False

        def stop() -> bool:
            nonlocal rejected
            rejected = hopeless()
            return rejected

        records = self._visit(groups, stop)
        self._balance += self._samples - self._limit if rejected else -self._limit
        outcomes = outcomes_in(records)
        if outcomes is not None:
            self.difficulty.note(torch.cat(groups[: len(records)]), outcomes)

    def _visit(self, groups: list[Tensor], stop: Callable[[], bool]) -> list[BatchRecord]:
        """Make a pass over groups of samples, each from one dataloader; what was noted after each batch."""
        parts = [nothing() for _ in self._sources]
        for index, source in enumerate(self._sources):
            own = [(group - self._starts[index]).tolist() for group in groups if self._dataloader[group[0]] == index]
            if own:
                assert source is not None
                parts[index] = source(own)

        records: list[BatchRecord] = []

        def after_batch(dataloader: int, batch: int, rows: int) -> bool:
            self._monitored.read(dataloader)
            outcomes = self._watch.take(rows, self._monitored.metric)
            records.append(BatchRecord(dataloader, rows, outcomes, self._monitored.own))
            bound = self._monitored.bound
            assert bound is not None
            strange = bound.observed and not losses_explain(records, self._monitored.dataloader)
            if strange or (outcomes is not None and outcomes.depends_on_batch):
                self._monitored.distrust()
            return stop()

        self._monitored.begin()
        with self._watch():
            self._loop.one_pass(parts, after_batch)
        return records

    def _groups(self) -> list[Tensor]:
        """The samples worth a look, in batches; as many batches on every process."""
        assert self.difficulty is not None
        order = self.difficulty.hardest_first(self._counted)
        mass = self.difficulty.incumbent[order].cumsum(dim=0)
        needed = 1 + int((mass < 0.95 * mass[-1]).sum())  # samples with nearly all of the incumbent's errors
        needed = int(gather(self._loop, [needed]).max())
        widest = int(_WIDEST * self._samples)
        if needed > widest:
            return []
        self._limit = min(widest, 2 * needed + math.ceil(0.05 * self._samples) + _SMALLEST_BATCH)
        order = order[: self._limit]
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
