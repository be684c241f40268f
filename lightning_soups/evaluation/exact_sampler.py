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
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, RandomSampler, SequentialSampler


class ExactSource(_DataLoaderSource):
    """A dataloader source that shares samples out among processes without repeating any.

    Lightning evens out the processes by repeating samples, which makes ``validate`` slightly wrong on several of
    them. It leaves loaders alone that already have a distributed sampler, so this source hands it such loaders, with
    the sampler that Lightning itself uses for ``predict``. The source and the call that rebuilds a loader are private
    in Lightning; `tests/test_distributed.py` compares one and two processes.

    Args:
        trainer: The trainer that the loaders are for.
        name: The hook that returns the loaders, ``val_dataloader``.

    Attributes:
        caveats: Why scores may depend on the number of processes, in words for the user.
    """

    def __init__(self, trainer: Trainer, name: str) -> None:
        super().__init__(None, name)
        self._trainer = trainer
        self.caveats: list[str] = []

    def dataloader(self) -> Any:
        """Request the loaders and replace the samplers of those that Lightning would shard."""
        dataloaders = super().dataloader()
        if isinstance(dataloaders, CombinedLoader):
            dataloaders.flattened = [self._shard(loader) for loader in dataloaders.flattened]
            return dataloaders
        return apply_to_collection(dataloaders, DataLoader, self._shard)

    def _shard(self, dataloader: Any) -> Any:
        if not isinstance(dataloader, DataLoader):
            return dataloader
        if caveat := self._why_not_exact(dataloader):
            self.caveats.append(caveat)
            rank_zero_warn(caveat)
        trainer = self._trainer
        if not trainer._data_connector._requires_distributed_sampler(dataloader):
            return dataloader
        kwargs = {**(trainer.distributed_sampler_kwargs or {}), "shuffle": False}
        _check_one_sample_each(dataloader, trainer.world_size)
        in_order = _is_in_order(dataloader.sampler)
        make: Callable[..., Any] = UnrepeatedDistributedSampler if in_order else UnrepeatedDistributedSamplerWrapper
        sampler = make(dataloader.dataset if in_order else dataloader.sampler, **kwargs)
        return _update_dataloader(dataloader, sampler, mode=RunningStage.VALIDATING)

    def _why_not_exact(self, dataloader: DataLoader[Any]) -> str | None:
        """Why the scores of a loader's samples may depend on the number of processes, and what to do; None if not."""
        trainer, sampler = self._trainer, dataloader.sampler
        if trainer.world_size == 1:
            return None
        several = f"With {trainer.world_size} processes scores may not be exact: "
        if isinstance(dataloader.dataset, IterableDataset):
            return (
                several + "a held-out dataset is an IterableDataset, which shares itself out among processes. Make sure"
                " that it gives each sample to one process, or use a map-style dataset."
            )
        if isinstance(sampler, DistributedSampler) and not isinstance(sampler, UnrepeatedDistributedSampler):
            return (
                several + "a held-out dataloader has a DistributedSampler of its own, which repeats samples to even out"
                " the processes. Leave it out; samples are then shared out without repeats."
            )
        if not trainer._accelerator_connector.use_distributed_sampler:
            return (
                several + "with use_distributed_sampler=False it is up to your dataloaders which process scores which"
                " sample. Use use_distributed_sampler=True for held-out data."
            )
        if not isinstance(sampler, UnrepeatedDistributedSampler) and not _is_in_order(sampler):
            name = type(sampler).__name__
            return (
                several + f"a held-out dataloader has the custom sampler {name}. Each process takes its share of the"
                " order that its own copy gives: make sure that all give the same, or use none."
            )
        if trainer.limit_val_batches != 1.0:
            return (
                several + f"limit_val_batches={trainer.limit_val_batches} leaves out samples, other ones for another"
                " number of processes. Use limit_val_batches=1.0, and a smaller held-out dataset if need be."
            )
        if dataloader.drop_last:
            return (
                several + "a held-out dataloader has drop_last=True, so every process leaves out its last samples. Use"
                " drop_last=False."
            )
        return None


def _is_in_order(sampler: Any) -> bool:
    return isinstance(sampler, (RandomSampler, SequentialSampler))


def _check_one_sample_each(dataloader: DataLoader[Any], processes: int) -> None:
    samples = len(dataloader.sampler)  # type: ignore[arg-type]
    if 0 < samples < processes:
        raise MisconfigurationException(
            f"A held-out dataloader has {samples} samples for {processes} processes; each process needs at least one."
            f" Use `devices={samples}` or fewer."
        )
