"""Every held-out sample once, on any number of processes."""

from collections.abc import Callable
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.overrides.distributed import (
    UnrepeatedDistributedSampler,
    UnrepeatedDistributedSamplerWrapper,
)
from lightning.pytorch.trainer.connectors.data_connector import _DataLoaderSource
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.data import _update_dataloader
from lightning_utilities.core.apply_func import apply_to_collection
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler


class ExactSource(_DataLoaderSource):
    """A dataloader source that shares samples out among processes without repeating any.

    Lightning evens out the processes by repeating samples, which makes ``validate`` slightly wrong on several of
    them. It leaves loaders alone that already have a distributed sampler, so this source hands it such loaders, with
    the sampler that Lightning itself uses for ``predict``. The source and the call that rebuilds a loader are private
    in Lightning; `tests/test_cook_distributed.py` compares one and two processes.

    Args:
        trainer: The trainer that the loaders are for.
        name: The hook that returns the loaders, ``val_dataloader``.
    """

    def __init__(self, trainer: Trainer, name: str) -> None:
        super().__init__(None, name)
        self._trainer = trainer

    def dataloader(self) -> Any:
        """Request the loaders and replace the samplers of those that Lightning would shard."""
        dataloaders = super().dataloader()
        if isinstance(dataloaders, CombinedLoader):
            dataloaders.flattened = [self._shard(loader) for loader in dataloaders.flattened]
            return dataloaders
        return apply_to_collection(dataloaders, DataLoader, self._shard)

    def _shard(self, dataloader: Any) -> Any:
        trainer = self._trainer
        connector = trainer._data_connector
        if not isinstance(dataloader, DataLoader) or not connector._requires_distributed_sampler(dataloader):
            return dataloader
        kwargs = {**(trainer.distributed_sampler_kwargs or {}), "shuffle": False}
        _check_one_sample_each(dataloader, trainer.world_size)
        in_order = isinstance(dataloader.sampler, (RandomSampler, SequentialSampler))
        make: Callable[..., Any] = UnrepeatedDistributedSampler if in_order else UnrepeatedDistributedSamplerWrapper
        sampler = make(dataloader.dataset if in_order else dataloader.sampler, **kwargs)
        return _update_dataloader(dataloader, sampler, mode=RunningStage.VALIDATING)


def _check_one_sample_each(dataloader: DataLoader[Any], processes: int) -> None:
    samples = len(dataloader.sampler)  # type: ignore[arg-type]
    if 0 < samples < processes:
        raise MisconfigurationException(
            f"A held-out dataloader has {samples} samples for {processes} processes; each process needs at least one."
            f" Use `devices={samples}` or fewer."
        )
