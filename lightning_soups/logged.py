"""What the active Lightning loop has logged, exact over all processes.

Lightning keeps logged values in ``trainer._results``, a private collection; this is the one place that reads it. Two
things cannot be had from the public ``trainer.callback_metrics``: whether a value comes from the loop that is running
now (stale values stay in it), and the ``torchmetrics.Metric`` behind a value. A third is wrong in it: the mean of a
tensor logged on several processes. Without ``sync_dist=True`` each process has its own value, and with it the counts
are averaged as integers, so that 301 and 300 samples become 300.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultCollection, _ResultMetric
from torch import Tensor, distributed
from torchmetrics import Metric

from lightning_soups.score import Mode


@dataclass(frozen=True)
class Logged:
    """A scalar logged for a whole epoch.

    Args:
        value: Its value over all batches of all processes.
        mode: The direction that the logged ``torchmetrics.Metric`` declares; None for plain tensors.
        name: What it was logged as.
        dataloader_idx: The dataloader it was logged for; None when there is only one, or it is of all of them.
    """

    value: float
    mode: Mode | None
    name: str = ""
    dataloader_idx: int | None = None


@dataclass(frozen=True)
class Accumulator:
    """What accumulates a logged scalar on this process, batch by batch.

    Args:
        source: The logged ``torchmetrics.Metric``; for a tensor logged as a mean, a function that returns the weighted
            sum and the total weight so far.
        dataloader_idx: The dataloader that it was logged for; None when there is only one.
    """

    source: Metric | Callable[[], tuple[float, float]]
    dataloader_idx: int | None


def logged_in_epoch(trainer: Trainer, known: Iterable[str] = ()) -> dict[str, Logged]:
    """Read every scalar that the active loop has logged with ``on_epoch=True`` since it started.

    Every process must call this, at the same point, before Lightning resets the results: in ``on_validation_end``,
    ``on_train_epoch_end`` and the like. Only before Lightning itself has computed a value logged with
    ``sync_dist=True`` is it exact on several processes, because computing overwrites the process's own count.

    Args:
        trainer: A trainer inside a fit or validate loop.
        known: Names to leave out.

    Returns:
        Values by the names that ``trainer.callback_metrics`` uses, the same on every process; those that only some
        processes logged are left out, for example with ``rank_zero_only=True``.
    """
    results = trainer._results
    found: dict[str, Logged] = {}
    if results is None:
        return found
    items = {
        _names(results, item)[0]: item
        for item in results.result_metrics
        if not item.has_reset and item.meta.on_epoch and not item.meta.sync.rank_zero_only
    }
    for name in _on_all_processes(sorted(items.keys() - set(known))):
        value = _over_all_processes(trainer, items[name])
        if value.numel() == 1:
            meta = items[name].meta
            logged = Logged(float(value), _mode(items[name]), meta.name, meta.dataloader_idx)
            found.update(dict.fromkeys(_names(results, items[name]), logged))
    return found


def synced_in_every_batch(trainer: Trainer) -> list[str]:
    """Name what the active loop gathers over processes in every batch; unequal numbers of batches make it hang."""
    results = trainer._results
    items = [] if results is None else results.result_metrics
    return sorted(
        item.meta.name
        for item in items
        if (item.meta.on_step and item.meta.sync.should) or getattr(item.value, "dist_sync_on_step", False)
    )


def accumulator(trainer: Trainer, name: str) -> Accumulator | None:
    """Find what accumulates a scalar in ``validation_step``.

    Args:
        trainer: A trainer inside a loop.
        name: A name that ``trainer.callback_metrics`` uses.

    Returns:
        None when it was not logged yet, by rank zero only, by another reduction than the mean, or for several
        dataloaders with one metric, which then holds more than one of them.
    """
    results = trainer._results
    if results is None:
        return None
    for item in results.result_metrics:
        if name not in _names(results, item) or not item.meta.on_epoch or item.meta.sync.rank_zero_only:
            continue
        if not item.is_tensor:
            shared = sum(other.value is item.value for other in results.result_metrics) > 1
            return None if shared else Accumulator(item.value, item.meta.dataloader_idx)
        if item.meta.is_mean_reduction:
            return Accumulator(partial(_sum_and_weight, item), item.meta.dataloader_idx)
    return None


def _sum_and_weight(item: _ResultMetric) -> tuple[float, float]:
    return float(item.value), float(item.cumulated_batch_size)


def _names(results: _ResultCollection, item: _ResultMetric) -> tuple[str, str]:
    return results._forked_name(item, on_step=False)


def _mode(item: _ResultMetric) -> Mode | None:
    higher_is_better = getattr(item.value, "higher_is_better", None) if isinstance(item.value, Metric) else None
    if higher_is_better is None:
        return None
    return "max" if higher_is_better else "min"


def _over_all_processes(trainer: Trainer, item: _ResultMetric) -> Tensor:
    if not item.is_tensor:
        # What Lightning has computed already stands: a hook may have reset the metric since. Else torchmetrics gathers
        # over processes itself and caches the result.
        computed = item.value.compute() if item._computed is None else item._computed
        return computed.detach().cpu() if isinstance(computed, Tensor) else torch.empty(0)
    values = _gather(trainer, item.value)
    if item.meta.is_mean_reduction:
        return values.sum() / _gather(trainer, item.cumulated_batch_size).sum()
    if item.meta.is_sum_reduction:
        return values.sum()
    return values.max() if item.meta.is_max_reduction else values.min()


def _on_all_processes(names: list[str]) -> list[str]:
    """The names that every process has; one that gathered a value alone would wait for the others forever."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return names
    everyone: list[list[str]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(everyone, names)
    return sorted(set(names).intersection(*everyone))


def _gather(trainer: Trainer, value: Tensor) -> Tensor:
    return trainer.strategy.all_gather(value.detach()).reshape(-1).cpu().double()
