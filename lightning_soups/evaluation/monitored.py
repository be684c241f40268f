"""The sums behind the monitored metric, batch by batch, on this process and over all."""

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_soups.evaluation.bounds import Bound, MeanBound, bound_of
from lightning_soups.evaluation.kept_loop import KeptLoop
from lightning_soups.logged import accumulator


class MonitoredSums:
    """Finds the metric that a loop monitors and reads its sums.

    Args:
        loop: The kept loop, running.
        monitor: The logged metric.

    Attributes:
        bound: What the sums allow to conclude; None while the metric was not logged, or when it has no bound.
        metric: The monitored ``torchmetrics.Metric``; None for a logged tensor.
        dataloader: The only dataloader that the metric is of; None when that is not known.
        own: This process's sums after the last batch of this pass.
    """

    def __init__(self, loop: KeptLoop, monitor: str) -> None:
        self._loop = loop
        self._monitor = monitor
        self.bound: Bound | None = None
        self.metric: Metric | None = None
        self.dataloader: int | None = None
        self.begin()

    def begin(self) -> None:
        """A new pass begins."""
        self.own: Tensor | None = None
        self._fell = False

    def find(self) -> None:
        """Look the metric up among what has been logged."""
        self.bound, self.metric = None, None
        found = accumulator(self._loop.trainer, self._monitor)
        if found is None:
            return
        self.dataloader = found.dataloader_idx
        if not isinstance(found.source, Metric):
            self.bound = MeanBound(found.source)
            return
        self.metric = found.source
        gathers = self.metric.sync_on_compute and self.metric.process_group is None
        if gathers or self._loop.trainer.world_size == 1:
            self.bound = bound_of(self.metric)

    def read(self, dataloader: int) -> None:
        """Read the sums after a batch of a dataloader."""
        if self.bound is None or self.dataloader not in (None, dataloader):
            return
        sums = self.bound.sums()
        before = torch.zeros_like(sums) if self.own is None else self.own
        self._fell |= self.bound.observed and bool(sums[0] < before[0])
        self.own = sums

    def distrust(self) -> None:
        """What this pass sums up is not what the bound is about."""
        self._fell = True

    def over_processes(self, like: Tensor | None = None) -> tuple[Tensor, bool]:
        """Add up all processes' sums; every process must call this.

        Args:
            like: Sums of the same shape, for a process that has seen nothing yet.

        Returns:
            The sums, float64 on CPU, and whether they are not what the bound is about: on some process the first of
            them fell.
        """
        own = self.own if self.own is not None else like
        assert own is not None
        own = own if self.own is not None else torch.zeros_like(own)
        total = gather(self._loop, [*own.tolist(), float(self._fell)]).sum(dim=0)
        return total[:-1], bool(total[-1])


def gather(loop: KeptLoop, values: list[float]) -> Tensor:
    """Collect numbers from all processes, shape (processes, k), float64 on CPU; every process must call this."""
    own = torch.tensor([values], dtype=torch.float64)
    if loop.trainer.world_size == 1:
        return own
    strategy = loop.trainer.strategy
    everyone: Tensor = strategy.all_gather(own.to(strategy.root_device))
    return everyone.reshape(-1, len(values)).cpu()


def on_all_processes(loop: KeptLoop, holds: bool) -> bool:
    """Whether something holds on every process; every process must call this."""
    return bool(gather(loop, [float(holds)]).all())
