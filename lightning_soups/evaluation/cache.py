"""Held-out batches decoded once: the first pass keeps them, later passes use what was kept."""

import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args

import psutil
import torch
from lightning.fabric.utilities.data import sized_len
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch.utils.data import DataLoader

from lightning_soups.evaluation.batch_store import BatchStore, bytes_of, same_batch
from lightning_soups.evaluation.digest import Digest
from lightning_soups.evaluation.resample import can_resample, resample

CacheBatches = Literal["auto", "device", "host", "off"]
SHARE = 0.4  # of the memory that is free when the first batch comes, for all dataloaders together
# what pickling or copying batches of unusual types may raise
_CANNOT_KEEP = (pickle.PicklingError, TypeError, AttributeError, RuntimeError, NotImplementedError)
_CGROUP = Path("/sys/fs/cgroup")


def validate_cache_batches(value: str) -> CacheBatches:
    """Return ``value`` unchanged, or say which values it may have.

    Raises:
        MisconfigurationException: ``value`` is none of them.
    """
    if value not in get_args(CacheBatches):
        raise MisconfigurationException(
            f"`cache_batches` must be one of {list(get_args(CacheBatches))}, got {value!r}."
        )
    return value  # type: ignore[return-value]


class MemoryBudget:
    """How much memory held-out batches may take, and where.

    Args:
        trainer: The trainer, set up.
        cache_batches: ``device`` keeps batches on the accelerator, ``host`` in (pinned) host memory, ``auto`` on the
            accelerator if they fit there, else in host memory, ``off`` nowhere. A module or datamodule that overrides
            how batches are transferred gets them from host memory, as its hooks expect.
        kind: What to call the batches in a warning.

    Attributes:
        places: Where batches may be kept, best first.
        kind: As given.
    """

    def __init__(self, trainer: Trainer, cache_batches: CacheBatches, kind: str = "held-out") -> None:
        self.kind = kind
        device, host = trainer.strategy.root_device, torch.device("cpu")
        self.places = {"auto": [device, host], "device": [device], "host": [host], "off": []}[cache_batches]
        if _transfers_itself(trainer.lightning_module) or _transfers_itself(getattr(trainer, "datamodule", None)):
            self.places = [host] if self.places else []
        self._processes = trainer.num_devices
        self.pin = device.type == "cuda"

    def place(self, needed: int) -> tuple[torch.device, int] | None:
        """Find a place for so many bytes; returns it and how many bytes may be used there."""
        for place in self.places:
            share = free_memory(place) * SHARE
            if place.type == "cpu":
                share /= self._processes
            left = int(share)
            if needed <= left:
                return place, left
        if self.places:
            rank_zero_warn(
                f"The {self.kind} batches need about {needed / 2**30:.1f} GiB, more than {SHARE:.0%} of the free memory"
                f" ({' or '.join(str(place) for place in dict.fromkeys(self.places))}), so they are read again for"
                " every pass. Smaller inputs (uint8 images that are converted on the device) make room."
            )
        return None


class CachedLoader:
    """A dataloader that keeps its batches in the first full pass and gives copies of them from then on.

    Args:
        loader: The dataloader.
        limit: How many batches a full pass takes; infinite when that is not known.
        budget: Where batches may be kept.
        before_reading: Called before the loader is iterated, which may start worker processes.

    Attributes:
        digest: What the batches of the first full pass were, as a short text; None before it.
    """

    def __init__(
        self, loader: Iterable[Any], limit: float, budget: MemoryBudget, before_reading: Callable[[], None]
    ) -> None:
        self.loader = loader
        self.limit = limit
        self.before_reading = before_reading
        self._budget = budget
        self._first: BatchStore | None = None
        self._changes: bool | None = None
        self.store: BatchStore | None = None
        self.digest: str | None = None

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        if self.store is not None:
            for index in range(len(self.store)):
                yield self.store[index]
            return
        self.before_reading()
        store, allowed = None, 0
        digest = Digest() if self.digest is None else None
        for index, batch in enumerate(self.loader):
            if digest is not None:
                digest.update(batch)
                if index + 1 == self.limit:
                    self.digest = str(digest)
            if index == 0:
                self._remember(batch)
                store, allowed = self._new_store(batch)
            if store is not None:
                store = self._kept(store, batch, allowed)
            if store is not None and len(store) == self.limit:
                self.store = store  # now, because nobody asks for one batch more than the limit
            yield batch
        if digest is not None:
            self.digest = str(digest)
        if store is not None and self.limit == float("inf"):
            self.store = store

    def _remember(self, batch: Any) -> None:
        if self._first is None:
            self._first = BatchStore(torch.device("cpu"))
            with suppress(*_CANNOT_KEEP):
                self._first.append(batch)

    def changes(self) -> bool:
        """Whether reading the loader again gives other batches: it shuffles, or changes samples at random.

        The first batch is read again, and the last one that was kept, with one worker; once.
        """
        if self._changes is None:
            try:
                self._changes = self._reads_differently()
            except _CANNOT_KEEP:
                self._changes = False  # batches that cannot be compared
        return self._changes

    def _reads_differently(self) -> bool:
        if not self._first:
            return False
        self.before_reading()
        if not can_resample(self.loader):
            return not same_batch(self._first[0], next(iter(self.loader), None))
        assert self.loader.batch_sampler is not None
        order, again = (list(self.loader.batch_sampler) for _ in range(2))
        if order != again:
            return True
        known, indices = [self._first[0]], order[:1]
        if self.store is not None and len(self.store) > 1:
            known, indices = [*known, self.store[len(self.store) - 1]], [*indices, order[len(self.store) - 1]]
        read = resample(self.loader, indices, workers=min(1, self.loader.num_workers))
        return not all(same_batch(one, other) for one, other in zip(known, read, strict=True))

    def _new_store(self, batch: Any) -> tuple[BatchStore | None, int]:
        if not self._budget.places:
            return None, 0
        try:
            size = bytes_of(batch)
        except _CANNOT_KEEP:  # of unknown size, so it cannot be kept within any
            return None, 0
        found = self._budget.place(size * int(self.limit) if self.limit != float("inf") else size)
        if found is None:
            return None, 0
        device, allowed = found
        pin = self._budget.pin and device.type == "cpu"
        return BatchStore(device, _rows(self.loader, self.limit), pin), allowed

    def _kept(self, store: BatchStore, batch: Any, allowed: int) -> BatchStore | None:
        try:
            if store.nbytes + bytes_of(batch) > allowed:
                kind = self._budget.kind
                rank_zero_warn(f"Later {kind} batches are larger than the first: they do not fit and are read anew.")
                return None
            store.append(batch)
        except _CANNOT_KEEP:
            return None
        return store


def caveats_about_changes(loaders: Iterable[CachedLoader]) -> Iterator[str]:
    """Say which held-out dataloaders give other batches when they are read again, in words for the user.

    Args:
        loaders: After their first pass.
    """
    for index, loader in enumerate(loaders):
        if loader.changes():
            kept = (
                "The batches of its first pass were kept, so that all candidates were compared on the same data."
                if loader.store is not None
                else "Candidates were compared on different data, so decisions are partly noise."
            )
            yield (
                f"Held-out dataloader {index} gives other batches each time it is read: it shuffles, or changes"
                f" samples at random. {kept} Use shuffle=False and no random augmentation for held-out data."
            )


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device, within this container's limit when there is one."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    available: int = psutil.virtual_memory().available
    try:  # https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files
        limit, used = (int((_CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        reclaimable = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        available = min(available, limit - used + int(reclaimable["inactive_file"]))
    except (OSError, ValueError, KeyError):  # no such file, or "max": not limited
        pass
    return max(available, 0)


def _rows(loader: Any, limit: float) -> int:
    """How many rows a pass gives, when the loader says."""
    if not isinstance(loader, DataLoader) or loader.batch_size is None:
        return 0
    return int(min(sized_len(loader.sampler) or 0, loader.batch_size * limit))


def _transfers_itself(owner: LightningModule | LightningDataModule | None) -> bool:
    parent = LightningModule if isinstance(owner, LightningModule) else LightningDataModule
    hooks = ("on_before_batch_transfer", "transfer_batch_to_device")
    return owner is not None and any(is_overridden(hook, owner, parent) for hook in hooks)
