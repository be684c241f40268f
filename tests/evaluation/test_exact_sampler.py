"""What the samplers share out, and when they must say that scores may not be exact."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_soups.evaluation.exact_sampler import ExactSource

DATA = TensorDataset(torch.arange(11))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(11))


class Backwards(Sampler):
    def __iter__(self):
        return iter(range(10, -1, -1))

    def __len__(self) -> int:
        return 11


def source(loader: Any, processes: int = 2, rank: int = 0, **options: Any) -> ExactSource:
    distributed = options.pop("use_distributed_sampler", True) and processes > 1
    connector = SimpleNamespace(
        _requires_distributed_sampler=lambda one: (
            distributed and not isinstance(one.sampler, DistributedSampler) and not isinstance(one.dataset, Stream)
        )
    )
    trainer = SimpleNamespace(
        world_size=processes,
        limit_val_batches=1.0,
        distributed_sampler_kwargs={"num_replicas": processes, "rank": rank},
        _accelerator_connector=SimpleNamespace(use_distributed_sampler=distributed),
        _data_connector=connector,
    )
    found = ExactSource(SimpleNamespace(**{**vars(trainer), **options}), "val_dataloader")  # type: ignore[arg-type]
    found.instance = SimpleNamespace(val_dataloader=lambda: loader)
    return found


def shares(loader: DataLoader, processes: int) -> list[list[int]]:
    found = []
    for rank in range(processes):
        shard = source(loader, processes, rank)._shard(loader)
        found.append([int(value) for (batch,) in shard for value in batch])
    return found


@pytest.mark.parametrize("processes", [2, 3, 8])
@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(DATA, batch_size=2),
        DataLoader(DATA, batch_size=4, shuffle=True),
        DataLoader(DATA, sampler=Backwards()),
    ],
    ids=["in order", "shuffled", "custom"],
)
@pytest.mark.filterwarnings("ignore")
def test_every_sample_once(loader: DataLoader, processes: int) -> None:
    found = shares(loader, processes)
    assert sorted(value for share in found for value in share) == list(range(11))
    sizes = [len(one) for one in found]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("loader", "options", "says"),
    [
        (DataLoader(Stream()), {}, "IterableDataset.*each sample to one process, or use a map-style"),
        (DataLoader(DATA, sampler=Backwards()), {}, "custom sampler Backwards.*or use none"),
        (DataLoader(DATA, sampler=WeightedRandomSampler([1.0] * 11, 11)), {}, "custom sampler WeightedRandomSampler"),
        (DataLoader(DATA, sampler=DistributedSampler(DATA, 2, 0)), {}, "DistributedSampler of its own.*Leave it out"),
        (DataLoader(DATA), {"use_distributed_sampler": False}, "use_distributed_sampler=False.*=True"),
        (DataLoader(DATA, batch_size=4, drop_last=True), {}, "drop_last=True.*Use drop_last=False"),
        (DataLoader(DATA), {"limit_val_batches": 2}, "limit_val_batches=2 leaves out.*limit_val_batches=1.0"),
    ],
)
def test_what_may_not_be_exact_is_said(loader: DataLoader, options: dict, says: str) -> None:
    several = source(loader, **options)
    with pytest.warns(UserWarning, match=f"With 2 processes scores may not be exact: .*{says}"):
        several._shard(loader)
    assert len(several.caveats) == 1
    alone = source(loader, processes=1, **options)
    assert alone._shard(loader) is loader
    assert alone.caveats == []


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(DATA),
        DataLoader(DATA, sampler=RandomSampler(DATA)),
        DataLoader(DATA, sampler=UnrepeatedDistributedSampler(DATA, 2, 0)),
    ],
)
def test_what_is_exact_needs_no_caveat(loader: DataLoader, recwarn: pytest.WarningsRecorder) -> None:
    exact = source(loader)
    exact._shard(loader)
    assert exact.caveats == []
    assert not [one for one in recwarn if "exact" in str(one.message)]


def test_fewer_samples_than_processes_are_refused() -> None:
    loader = DataLoader(TensorDataset(torch.arange(1)))
    with pytest.raises(MisconfigurationException, match="1 samples for 2 processes"):
        source(loader)._shard(loader)
