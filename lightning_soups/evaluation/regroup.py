"""Held-out samples in other batches than the loader's: from the cache, or through the loader's own collate."""

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any, Protocol

from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch.utils.data import DataLoader, SequentialSampler

from lightning_soups.evaluation.batch_store import BatchStore
from lightning_soups.evaluation.cache import CachedLoader
from lightning_soups.evaluation.resample import can_resample, resample


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
    if not can_resample(users) or type(users.sampler) not in (SequentialSampler, UnrepeatedDistributedSampler):
        return None  # another sampler may give another order next time
    indices = list(users.sampler)
    if rows != _rows_expected(loader, users, len(indices)) or loader.changes():
        return None  # rows are not samples, or reading them again would give others

    def regrouped(groups: Sequence[Sequence[int]]) -> DataLoader[Any]:
        loader.before_reading()
        return resample(users, [[indices[row] for row in group] for group in groups], users.num_workers)

    return regrouped


def whole_batches(store: BatchStore) -> Regroup:
    """How to visit kept batches that cannot be grouped anew: groups name batches, which come one at a time."""
    return lambda groups: _Taken([batch for group in groups for batch in group], store.__getitem__)


def _rows_expected(loader: CachedLoader, users: DataLoader[Any], samples: int) -> float:
    assert users.batch_size is not None
    whole = samples - samples % users.batch_size if users.drop_last else samples
    return min(whole, loader.limit * users.batch_size)


class _Taken:
    def __init__(self, groups: Sequence[Any], take: Callable[[Any], Any]) -> None:
        self._groups = groups
        self._take = take

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[Any]:
        return map(self._take, self._groups)
