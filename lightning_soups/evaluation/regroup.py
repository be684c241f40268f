"""Held-out samples in other batches than the loader's: from the cache, or through the loader's own collate."""

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any, Protocol

from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

from lightning_soups.evaluation.cache import CachedLoader


class Batches(Iterable[Any], Sized, Protocol):
    """What the loop can iterate instead of a dataloader."""


Regroup = Callable[[Sequence[Sequence[int]]], Batches]
"""Makes one batch per group of row numbers; rows count from 0 in the order of the loader's own pass."""


def nothing() -> Batches:
    """No batches."""
    return _Taken((), list)


def regroup(loader: CachedLoader, rows: int) -> Regroup | None:
    """How to group a loader's rows anew; None when that is not possible.

    Args:
        loader: A dataloader, after its first full pass.
        rows: How many rows that pass had.
    """
    store, users = loader.store, loader.loader
    if store is not None and store.rows == rows:
        return lambda groups: _Taken(groups, store.take)
    if type(users) is not DataLoader or isinstance(users.dataset, IterableDataset):
        return None
    if type(users.batch_sampler) is not BatchSampler:
        return None
    if type(users.sampler) not in (SequentialSampler, UnrepeatedDistributedSampler):
        return None  # another sampler may give another order next time
    indices = list(users.sampler)

    def regrouped(groups: Sequence[Sequence[int]]) -> DataLoader[Any]:
        loader.before_reading()
        return _resampled(users, [[indices[row] for row in group] for group in groups])

    return regrouped


class _Taken:
    def __init__(self, groups: Sequence[Sequence[int]], take: Callable[[Sequence[int]], Any]) -> None:
        self._groups = groups
        self._take = take

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[Any]:
        return map(self._take, self._groups)


def _resampled(loader: DataLoader[Any], groups: Sequence[Sequence[int]]) -> DataLoader[Any]:
    return DataLoader(
        loader.dataset,
        batch_sampler=[list(group) for group in groups],
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
    )
