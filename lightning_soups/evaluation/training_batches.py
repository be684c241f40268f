"""The first training batches, the same ones every time and on every process, whatever shuffles them."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.trainer.connectors.data_connector import _DataLoaderSource
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_soups.evaluation.resample import can_resample, resample

_END = object()


def training_loader(trainer: Trainer, given: Any) -> Any:
    """Request the training dataloader the way a fit does, with ``setup("fit")`` of whom it comes from.

    Args:
        trainer: The trainer, inside of ``validate`` or ``test``.
        given: Training dataloaders that the user passed; None to ask the datamodule, or the module if there is none.

    Returns:
        Whatever the user's code returns; None when there is no training data.
    """
    # Lightning attaches the datamodule, or else the module, to the loops of all stages; the loop's source is private
    owner = given if given is not None else trainer.fit_loop._data_source.instance
    source = _DataLoaderSource(owner, "train_dataloader")
    if not source.is_defined():
        return None
    if isinstance(owner, (LightningDataModule, LightningModule)):
        with isolate_rng():
            owner.setup(stage="fit")
            return source.dataloader()
    return owner


class TrainingBatches:
    """Gives the first batches of a training dataloader, read under a fixed seed, which leaves the user's generators be.

    An ordinary dataloader reads just these batches, with worker processes of its own that end with them. Others are
    iterated as they are. Several loaders are iterated together as a fit does.

    Args:
        loaders: What a ``train_dataloader`` hook may return.
        count: How many batches to give, if there are as many.
        limit: The trainer's ``limit_train_batches``, a number of batches or a share of them.
    """

    def __init__(self, loaders: Any, count: int, limit: int | float = 1.0) -> None:
        combined = loaders if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders, "max_size_cycle")
        single = len(combined.flattened) == 1 and combined.flattened[0] is loaders
        self._loader: Iterable[Any] = loaders if single else _Together(combined)
        self._generators = _generators_of(combined.flattened)
        known = sized_len(self._loader)
        if isinstance(limit, float):
            limit = count if known is None or limit == 1.0 else int(limit * known)
        count = min(count, limit, count if known is None else known)
        if can_resample(self._loader):
            with self._seeded(0):
                first = list(islice(self._loader.batch_sampler or (), count))
            count = len(first)
            self._loader = resample(self._loader, first, min(self._loader.num_workers, count))
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        with self._seeded(0):
            iterator = iter(self._loader)
        for index in range(self._count):
            with self._seeded(index + 1):  # anew for every batch, because a step that runs in between may draw, too
                batch = next(iterator, _END)
            if batch is _END:
                return
            yield batch

    @contextmanager
    def _seeded(self, seed: int) -> Iterator[None]:
        states = [generator.get_state() for generator in self._generators]
        with isolate_rng():
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            for generator in self._generators:
                generator.manual_seed(seed)
            try:
                yield
            finally:
                for generator, state in zip(self._generators, states, strict=True):
                    generator.set_state(state)


class _Together:
    """The batches of several loaders, without what else a ``CombinedLoader`` gives."""

    def __init__(self, combined: CombinedLoader) -> None:
        self._combined = combined

    def __iter__(self) -> Iterator[Any]:
        return (batch for batch, _, _ in iter(self._combined))


def _generators_of(loaders: Iterable[Any]) -> list[torch.Generator]:
    """The generators that users gave to dataloaders and their samplers."""
    owners = [owner for one in loaders for owner in (one, getattr(one, "sampler", None))]
    owners += [getattr(getattr(one, "batch_sampler", None), "sampler", None) for one in loaders]
    found = [getattr(owner, "generator", None) for owner in owners]
    return list({id(one): one for one in found if isinstance(one, torch.Generator)}.values())
