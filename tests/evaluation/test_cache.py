"""Held-out batches are decoded once, and what is given to a step is a copy."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_soups import Soup, SoupTrainer
from lightning_soups.evaluation import cache
from lightning_soups.evaluation.batch_store import BatchStore, bytes_of, same_batch
from tests.helpers import Classifier, blobs, record, trainer

CPU = torch.device("cpu")


class Counting(Dataset):
    """Counts how often each sample is decoded."""

    def __init__(self, samples: int = 101) -> None:
        self.data = blobs(samples, seed=2)
        self.decoded = [0] * samples

    def __len__(self) -> int:
        return len(self.decoded)

    def __getitem__(self, index: int) -> Any:
        self.decoded[index] += 1
        return self.data[index]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("soups")
    record(directory, [0.02, 0.3, 0.6, 1.2])
    return directory


def cook(recorded: Path, tmp_path: Path, loaders: Any, module: Classifier | None = None, **kwargs) -> Soup:
    options = {"ingredients": recorded, "output": tmp_path / "s.ckpt", "early_rejection": False, **kwargs}
    return trainer(SoupTrainer).cook(module or Classifier(), loaders, **options)


@pytest.mark.parametrize("placement", ["auto", "device", "host"])
def test_each_sample_is_decoded_once(recorded: Path, tmp_path: Path, placement: str) -> None:
    dataset = Counting()
    soup = cook(recorded, tmp_path, DataLoader(dataset, batch_size=32), cache_batches=placement)
    assert sum(not row.cached for row in soup.trace) == 4
    assert dataset.decoded == [2] * 32 + [1] * 64 + [2] * 5  # the first and the last again, to see whether they change


def test_off_decodes_in_every_pass(recorded: Path, tmp_path: Path) -> None:
    dataset = Counting()
    soup = cook(recorded, tmp_path, DataLoader(dataset, batch_size=32), cache_batches="off")
    assert sum(not row.cached for row in soup.trace) == 4
    assert dataset.decoded == [5] * 32 + [4] * 69


def test_no_room_means_reading_again(recorded, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "free_memory", lambda device: 1000)
    dataset = Counting()
    with pytest.warns(UserWarning, match=r"need about .* GiB, more than 40% of the free memory"):
        cook(recorded, tmp_path, DataLoader(dataset, batch_size=32))
    assert dataset.decoded[-1] == 4
    room = 2.5 * 101 * (6 * 4 + 8)  # 40 % of it holds all rows
    monkeypatch.setattr(cache, "free_memory", lambda device: room)
    dataset = Counting()
    cook(recorded, tmp_path, DataLoader(dataset, batch_size=32))
    assert dataset.decoded[-1] == 4, "the estimate counts whole batches: 4 of 32"
    monkeypatch.setattr(cache, "free_memory", lambda device: 1.3 * room)
    cook(recorded, tmp_path, DataLoader(dataset, batch_size=32))
    assert dataset.decoded[-1] == 4 + 2


def test_free_memory_respects_the_containers_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlimited = cache.free_memory(CPU)
    assert unlimited > 10**8
    monkeypatch.setattr(cache, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 50000\nfile 3\n")
    assert cache.free_memory(CPU) == 150000
    (tmp_path / "memory.max").write_text("max\n")
    assert cache.free_memory(CPU) > 10**8


def test_an_unknown_placement_is_refused(recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"one of \['auto', 'device', 'host', 'off'\], got 'gpu'"):
        cook(recorded, tmp_path, DataLoader(blobs(10, 0)), cache_batches="gpu")


class InPlace(Classifier):
    """Works on the batch it is given, and on what its transfer hooks return."""

    def on_before_batch_transfer(self, batch: list[Tensor], dataloader_idx: int) -> list[Tensor]:
        batch[0] += 1
        return batch

    def on_after_batch_transfer(self, batch: list[Tensor], dataloader_idx: int) -> list[Tensor]:
        batch[0] -= 0.5
        return batch

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        batch[0] -= 0.5
        super().validation_step(batch, batch_idx)
        batch[0].zero_()
        batch[1].zero_()
        batch.clear()


@pytest.mark.parametrize("placement", ["auto", "device"])
def test_steps_and_hooks_that_work_in_place(recorded: Path, tmp_path: Path, placement: str) -> None:
    loader = DataLoader(blobs(101, seed=2), batch_size=32)
    plain = cook(recorded, tmp_path, loader, cache_batches="off")
    for early in (False, True):
        soup = cook(recorded, tmp_path, loader, InPlace(), cache_batches=placement, early_rejection=early)
        assert soup.mixture == plain.mixture
        assert soup.metrics["val_loss"] == pytest.approx(plain.metrics["val_loss"], rel=1e-5)


def test_several_dataloaders_of_several_kinds(recorded: Path, tmp_path: Path) -> None:
    class Two(Classifier):
        def validation_step(self, batch, batch_idx: int, dataloader_idx: int = 0) -> None:
            super().validation_step(list(batch.values()) if isinstance(batch, dict) else batch, batch_idx)

    class Stream(IterableDataset):
        decoded = 0

        def __iter__(self):
            for x, y in blobs(40, seed=5):
                Stream.decoded += 1
                yield {"x": x, "y": y}

    dataset = Counting(50)
    loaders = [DataLoader(dataset, batch_size=16), DataLoader(Stream(), batch_size=16)]
    soup = cook(recorded, tmp_path, loaders, Two(), monitor="val_loss/dataloader_idx_1", mode="min")
    assert soup.trace[0].samples == 90
    assert dataset.decoded == [2] * 16 + [1] * 32 + [2] * 2
    assert Stream.decoded == 40 + 16


class Noisy(Counting):
    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)
        return x + 0.01 * torch.randn_like(x), y


@pytest.mark.parametrize("placement", ["auto", "off"])
@pytest.mark.parametrize("kind", ["augmented", "shuffled", "steady"])
def test_data_that_change_from_pass_to_pass_are_reported(recorded, tmp_path, placement: str, kind: str) -> None:
    dataset = Noisy() if kind == "augmented" else Counting()
    loader = DataLoader(dataset, batch_size=32, shuffle=kind == "shuffled")
    soup = cook(recorded, tmp_path, loader, cache_batches=placement)
    if kind == "steady":
        assert soup.caveats == ()
        return
    assert len(soup.caveats) == 1
    assert "other batches each time" in soup.caveats[0]
    assert ("were kept" in soup.caveats[0]) == (placement == "auto")
    assert Soup.load(tmp_path / "s.ckpt").caveats == soup.caveats
    if placement == "auto":  # all candidates saw the same data, so the soup still is no worse than the best single
        assert soup.score >= soup.trace[0].score


def test_loaders_stay_visible_to_hooks(recorded: Path, tmp_path: Path) -> None:
    loader = DataLoader(blobs(40, seed=2), batch_size=32)
    seen = []

    class Looking(Classifier):
        def on_validation_epoch_end(self) -> None:
            seen.append(self.trainer.val_dataloaders)
            assert self.trainer.num_val_batches == [2]

    cook(recorded, tmp_path, loader, Looking())
    assert all(one is loader for one in seen)
    assert len(seen) == 4 + 3  # the recorded scores are of other data, so every ingredient is evaluated


def test_rows_come_back_as_they_went() -> None:
    store = BatchStore(CPU)
    batches = [{"x": torch.arange(12.0).reshape(4, 3) + 10 * i, "y": torch.arange(4) + i} for i in range(3)]
    batches.append({"x": torch.ones(1, 3), "y": torch.zeros(1, dtype=torch.long)})
    for batch in batches:
        store.append(batch)
    assert store.rows == 13
    assert len(store) == 4
    assert store.nbytes == sum(map(bytes_of, batches)) == 13 * (12 + 8)
    assert all(same_batch(store[i], batch) for i, batch in enumerate(batches))
    store[1]["x"].zero_()
    assert same_batch(store[1], batches[1])
    taken = store.take([12, 5, 0])
    assert torch.equal(taken["x"], torch.stack([batches[3]["x"][0], batches[1]["x"][1], batches[0]["x"][0]]))
    assert taken["y"].tolist() == [0, 2, 0]


@pytest.mark.parametrize(
    "last",
    [
        [torch.ones(2, 4), torch.ones(2)],  # another shape
        [torch.ones(2, 3), torch.ones(2).half()],  # another dtype
        [torch.ones(2, 3), torch.ones(3)],  # not as many rows
        [torch.ones(2, 3), "text"],
        {"x": torch.ones(2, 3)},
        [torch.ones(2, 3), torch.tensor(1.0)],
    ],
    ids=["shape", "dtype", "rows", "text", "structure", "scalar"],
)
def test_batches_that_have_no_equal_rows_are_kept_one_by_one(last: Any) -> None:
    store = BatchStore(CPU, expected_rows=4)
    first = [torch.zeros(2, 3), torch.zeros(2)]
    store.append(first)
    store.append(last)
    assert store.rows is None
    assert len(store) == 2
    assert same_batch(store[0], first)
    assert same_batch(store[1], last)


def test_same_batch() -> None:
    nan = torch.tensor([1.0, torch.nan])
    assert same_batch([nan, "a"], [nan.clone(), "a"])
    for other in ([nan + 1, "a"], [nan, "b"], [nan], [nan.double(), "a"], (nan, "a"), [nan[:1], "a"], [nan, None]):
        assert not same_batch([nan, "a"], other)


class Scaled(torch.Tensor):
    """A tensor of a user's own class."""


def scaled() -> Tensor:
    tensor = torch.ones(2, 3)
    tensor.scale = 4.0
    return tensor


@pytest.mark.parametrize(
    "leaf",
    [
        torch.ones(2, 3).as_subclass(Scaled),
        scaled(),
        torch.eye(2).to_sparse(),
        torch.nested.nested_tensor([torch.ones(2)]),
    ],
    ids=["subclass", "attribute", "sparse", "nested"],
)
@pytest.mark.filterwarnings("ignore")
def test_unusual_tensors_are_kept_as_they_are_or_not_at_all(recorded: Path, tmp_path: Path, leaf: Tensor) -> None:
    class Unusual(Classifier):
        def validation_step(self, batch: dict, batch_idx: int) -> None:
            assert type(batch["leaf"]) is type(leaf)
            assert batch["leaf"].layout == leaf.layout
            assert getattr(batch["leaf"], "scale", None) == getattr(leaf, "scale", None)
            super().validation_step([batch["x"], batch["y"]], batch_idx)

    def collate(items: list) -> dict:
        return {"x": torch.stack([x for x, _ in items]), "y": torch.stack([y for _, y in items]), "leaf": leaf}

    loader = DataLoader(blobs(101, seed=2), batch_size=32, collate_fn=collate)
    plain = cook(recorded, tmp_path, DataLoader(blobs(101, seed=2), batch_size=32))
    for options in ({}, {"early_rejection": True}, {"cache_batches": "off"}):
        soup = cook(recorded, tmp_path, loader, Unusual(), **options)
        assert soup.mixture == plain.mixture
