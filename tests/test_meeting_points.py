"""Faults that a review found where features meet."""

import json
import multiprocessing
import pickle
import re
import threading
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy
from upath import UPath

from lightning_soups import (
    Comparison,
    GreedySoup,
    Ingredient,
    Ingredients,
    LearnedSoup,
    ModelStock,
    Soup,
    SoupTrainer,
    UniformSoup,
)
from lightning_soups.local_copies import LocalCopies
from lightning_soups.tables import ingredients_table, make_console
from tests.helpers import CLASSES, FEATURES, Blobs, Classifier, record, trainer


class Normed(Classifier):
    """A network whose running statistics do not mix."""

    def __init__(self, lr: float = 0.3) -> None:
        super().__init__(lr)
        self.net = nn.Sequential(nn.Linear(FEATURES, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, CLASSES))


class Meter:
    def __init__(self) -> None:
        self.right = self.samples = 0.0


class Counting(Normed):
    """Adds up in something that is emptied at the end of the epoch only."""

    def __init__(self, lr: float = 0.3, how: str = "tensor") -> None:
        super().__init__(lr)
        self.how = how
        self.empty()

    def empty(self) -> None:
        self.right, self.samples = torch.tensor(0.0), torch.tensor(0.0)
        self.meter, self.outcomes = Meter(), deque[Tensor]()
        self.metrics = [MulticlassAccuracy(CLASSES, average="micro")]

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        logits = self(batch[0])
        right = (logits.argmax(dim=1) == batch[1]).float()
        self.right += right.sum()
        self.samples += len(right)
        self.meter.right += right.sum().item()
        self.meter.samples += len(right)
        self.outcomes.append(right)
        self.metrics[0].update(logits, batch[1])
        self.val_acc(logits, batch[1])
        self.log("val_acc", self.val_acc)

    def on_validation_epoch_end(self) -> None:
        value = {
            "tensor": lambda: self.right / self.samples,
            "object": lambda: torch.tensor(self.meter.right / self.meter.samples),
            "deque": lambda: torch.cat(list(self.outcomes)).mean(),
            "metric": lambda: self.metrics[0].compute(),
        }[self.how]()
        self.log("acc", value)
        if self.how == "object":
            self.meter.right = self.meter.samples = 0.0
        elif self.how == "deque":
            self.outcomes.clear()
        elif self.how == "metric":
            self.metrics[0].reset()
        else:
            self.right, self.samples = torch.tensor(0.0), torch.tensor(0.0)


class CountingCallback(Callback):
    """Holds a metric of its own."""

    def __init__(self) -> None:
        self.metric = MulticlassAccuracy(CLASSES, average="micro")
        self.others = [Path("folder"), threading.Lock(), re.compile("a"), (np.ones(2), {"deep": [Meter()]})]

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self.metric.update(pl_module(batch[0]), batch[1])

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        pl_module.log("own", self.metric.compute())
        self.metric.reset()


@pytest.fixture(scope="module")
def normed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("normed")
    record(directory, [0.1, 0.3, 0.5, 0.8], Normed)
    return directory


@pytest.mark.parametrize("how", ["tensor", "object", "deque", "metric"])
@pytest.mark.parametrize("batch_norm", ["recalculate", "average"])
def test_what_a_step_adds_up_does_not_leak_between_passes(
    normed: Path, tmp_path: Path, how: str, batch_norm: str
) -> None:
    """Neither from training batches nor from passes that end early."""
    callback = CountingCallback()
    soup = trainer(SoupTrainer, callbacks=[callback]).cook(
        Counting(how=how),
        datamodule=Blobs(),
        ingredients=normed,
        recipe=GreedySoup(),
        batch_norm=batch_norm,
        output=tmp_path / "soup.ckpt",
    )
    (plain,) = trainer(Trainer, callbacks=[CountingCallback()]).validate(
        Counting(how=how), Blobs(), ckpt_path=str(soup.path), verbose=False
    )
    for name in ("val_acc", "acc", "own"):
        assert soup.metrics[name] == pytest.approx(plain[name], abs=1e-6)
    assert soup.metrics["acc"] == pytest.approx(soup.score.value)


def test_a_study_says_that_it_averages_statistics(normed: Path, tmp_path: Path) -> None:
    study = trainer(SoupTrainer).study(
        Normed(), datamodule=Blobs(), study=Comparison(), ingredients=normed, output=tmp_path / "it"
    )
    assert any("Running statistics of BatchNorm layers are averaged" in text for text in study.caveats)


class Tied(Classifier):
    """Two names of one weight, in both of two layers."""

    def __init__(self, lr: float = 0.05) -> None:
        super().__init__(lr)
        self.net = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.Tanh(), nn.Linear(FEATURES, FEATURES))
        self.net[2].weight = self.net[0].weight
        self.out = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.net(x))


@pytest.mark.parametrize("recipe", [ModelStock(), LearnedSoup(by_layer=True, steps=3)])
def test_whichever_name_of_a_tied_weight_a_file_has_is_the_same(tmp_path: Path, recipe) -> None:
    record(tmp_path / "runs", [0.05, 0.2, 0.4], Tied)
    found = Ingredients.load(tmp_path / "runs")
    given = {"both": [], "first": [], "second": []}
    for number, one in enumerate([*found, found.initialization]):
        state = torch.load(one.path, weights_only=True)["state_dict"]
        for kind, dropped in (("both", None), ("first", "net.2.weight"), ("second", "net.0.weight")):
            path = tmp_path / kind / f"{number}.pt"
            path.parent.mkdir(exist_ok=True)
            torch.save({name: tensor for name, tensor in state.items() if name != dropped}, path)
            given[kind].append(str(path))
    given["mixed"] = [given["first"][0], given["second"][1], given["both"][2], given["second"][3]]
    soups = {
        kind: trainer(SoupTrainer).cook(
            Tied(),
            datamodule=Blobs(),
            ingredients=Ingredients.load(paths[:3], initialization=paths[3]),
            recipe=recipe,
            monitor="val_acc",
            output=tmp_path / f"{kind}.ckpt",
        )
        for kind, paths in given.items()
    }
    wanted = soups["both"].state_dict()
    for soup in soups.values():
        state = soup.state_dict()
        assert state.keys() == wanted.keys()
        assert all(torch.equal(state[name], wanted[name]) for name in wanted)


def test_an_output_never_replaces_an_ingredient(tmp_path: Path) -> None:
    record(tmp_path, [0.05, 0.1])
    one, _ = Ingredients.load(tmp_path)
    before = one.path.read_bytes()
    with pytest.raises(ValueError, match=r"`output` .* would replace the ingredient"):
        trainer(SoupTrainer).cook(Classifier(), datamodule=Blobs(), ingredients=tmp_path, output=one.path)
    assert one.path.read_bytes() == before


def test_json_that_is_no_record_is_no_obstacle(tmp_path: Path) -> None:
    for name in "ab":
        torch.save(Classifier().state_dict(), tmp_path / f"{name}.pt")
        (tmp_path / f"{name}.json").write_text(json.dumps({"lr": 0.1}))
    (tmp_path / "config.json").write_text("{}")
    assert [one.path.name for one in Ingredients.load(f"{tmp_path}/*")] == ["a.pt", "b.pt"]
    record(tmp_path / "soups", [0.1])
    (one,) = Ingredients.load(tmp_path / "soups")
    assert one.run == "run-00"
    other = one.path.with_suffix(".pt")
    torch.save(Classifier().state_dict(), other)
    assert Ingredient.from_checkpoint(other).path == other, "the record is of another file"
    assert Ingredient.from_checkpoint(other).monitor is None


def test_globs_of_urls_are_as_those_of_disks(tmp_path: Path) -> None:
    MemoryFileSystem.store.clear()
    record("memory://globbed", [0.1, 0.2])
    assert len(Ingredients.load("memory://globbed/runs/*/*")) == 2
    record(tmp_path, [0.1, 0.2])
    assert len(Ingredients.load(f"file://{tmp_path}/runs/*/*.ckpt")) == 2
    MemoryFileSystem.store.clear()


def test_ingredients_of_one_folder_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("0.pt", "0.pth", "1.pt"):
        torch.save(Classifier().state_dict(), tmp_path / name)
    make_console().print(ingredients_table(Ingredients.load(f"{tmp_path}/*"), "found"))
    printed = capsys.readouterr().out
    assert all(f"/{name}" in printed for name in ("0.pt", "0.pth", "1 "))


def test_nested_hyperparameters_are_columns_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    def one(number: int) -> Ingredient:
        nested = {"opt": {"class_path": "torch.optim.SGD", "init_args": {"lr": number / 10}}}
        return Ingredient(Path(f"{number}.ckpt"), f"run-{number}", {"acc": 0.9}, nested, monitor="acc", mode="max")

    make_console().print(ingredients_table([one(1), one(2)], "found"))
    printed = capsys.readouterr().out
    assert "opt.lr" in printed
    assert "class" not in printed
    assert "0.9000" in printed


def _keep_many(folder: str, number: int) -> None:
    copies = LocalCopies(Path(folder), limit=10**9)
    for index in range(60):
        copies.keep(f"{number}-{index}", "1", "copy", 1, lambda path: path.write_bytes(b"x"))


def test_many_processes_can_make_room_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_keep_many, args=(str(tmp_path), number)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4


def test_a_soup_of_soups_says_nothing_of_its_ingredients_own(tmp_path: Path) -> None:
    """What a soup's file holds besides its weights is that soup's alone."""
    for name in "ab":
        state = {"state_dict": Classifier().state_dict(), "global_step": 0, "lightning_soups_adapter": {"config": name}}
        torch.save(state, tmp_path / f"{name}.ckpt")
    soup = trainer(SoupTrainer).cook(
        Classifier(),
        datamodule=Blobs(),
        ingredients=f"{tmp_path}/?.ckpt",
        recipe=UniformSoup(),
        monitor="val_acc",
        output=tmp_path / "soup.ckpt",
    )
    assert "lightning_soups_adapter" not in torch.load(soup.path, weights_only=True)
    with pytest.raises(ValueError, match=r"only a soup of plain LoRA adapters that is saved as \.ckpt"):
        soup.save_adapter(tmp_path / "adapter")
    assert pickle.loads(pickle.dumps(Soup.load(soup.path))).score == soup.score


def test_an_adapter_can_be_saved_to_a_url() -> None:
    from lightning_soups.adapters import write_adapter

    MemoryFileSystem.store.clear()
    write_adapter("memory://adapters/one", {"peft_type": "LORA"}, {"layer.lora_A.weight": torch.ones(1, 2)})
    names = sorted(path.name for path in UPath("memory://adapters/one").iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors"]
    MemoryFileSystem.store.clear()
