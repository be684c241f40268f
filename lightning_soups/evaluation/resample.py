"""Chosen samples of a map-style dataset, through the dataloader's own workers and collate function."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeGuard

from torch.utils.data import BatchSampler, DataLoader, IterableDataset


def can_resample(loader: Any) -> TypeGuard[DataLoader[Any]]:
    """Whether a loader makes batches from indices, in the ordinary way."""
    if type(loader) is not DataLoader or isinstance(loader.dataset, IterableDataset):
        return False
    return type(loader.batch_sampler) is BatchSampler


def in_batches(loader: Any, count: int) -> Any:
    """Make a loader of the same samples, in the same order and so many batches of nearly the same size.

    Args:
        loader: Any; one that cannot be resampled, or lacks samples for so many batches, is given back.
        count: How many batches.
    """
    if not can_resample(loader) or loader.drop_last:
        return loader
    samples = list(loader.sampler)
    if len(samples) < count:
        return loader
    bounds = [len(samples) * index // count for index in range(count + 1)]
    return resample(loader, [samples[start:stop] for start, stop in pairwise(bounds)], loader.num_workers)


def resample(loader: DataLoader[Any], batches: Sequence[Sequence[int]], workers: int) -> DataLoader[Any]:
    """Make a loader of the same samples, in other batches.

    Args:
        loader: One that :func:`can_resample`.
        batches: The indices of each batch's samples in the dataset.
        workers: How many worker processes to use.
    """
    return DataLoader(
        loader.dataset,
        batch_sampler=[list(batch) for batch in batches],
        num_workers=workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout if workers else 0,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context if workers else None,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor if workers else None,
    )
