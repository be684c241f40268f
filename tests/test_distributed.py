"""Two CPU processes against one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_soups import Ingredients, SoupCallback, SoupTrainer
from tests.helpers import Blobs, Classifier, record, trainer

TWO = {"devices": 2, "strategy": "ddp_spawn"}


class Unsynced(Classifier):
    """Logs a plain tensor without sync_dist, which Lightning leaves different on every process."""

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("plain", loss)
        self.log("synced", loss, sync_dist=True)
        self.log("total", loss, reduce_fx="sum")
        self.log("worst", loss, reduce_fx="max")


class Lines(Logger):
    """A logger that does not care which process it is in."""

    name = version = None

    def __init__(self, path: Path) -> None:
        self.path = path

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        with self.path.open("a") as file:
            file.write(f"{step}\n")


@pytest.mark.parametrize(
    ("module", "monitor", "mode"),
    [(Classifier, "val_acc", None), (Unsynced, "plain", "min"), (Unsynced, "synced", "min")],
)
def test_two_processes_choose_what_one_does(
    tmp_path: Path, module: type[LightningModule], monitor: str, mode: str | None
) -> None:
    """129 samples are 65 and 64, so 3 batches and 2; Lightning itself would score one sample twice."""
    record(tmp_path, [0.1, 0.3, 0.6])
    arguments = {"datamodule": Blobs(held_out=129), "ingredients": tmp_path, "monitor": monitor, "mode": mode}
    one = trainer(SoupTrainer).cook(module(), **arguments, output=tmp_path / "one.ckpt")
    cooking = trainer(SoupTrainer, logger=Lines(tmp_path / "log.txt"), **TWO)
    two = cooking.cook(module(), **arguments, output=tmp_path / "two.ckpt")
    steps = [*range(1, len(two.trace) + 1), len(two.trace)]  # the questions, then the soup
    assert (tmp_path / "log.txt").read_text().split() == [str(step) for step in steps]
    assert two.mixture == one.mixture
    assert [row.early for row in two.trace if row.accepted] == [row.early for row in one.trace if row.accepted]
    for ours, theirs in zip(two.trace, one.trace, strict=True):
        if not ours.early and not theirs.early:
            assert ours.score.value == pytest.approx(theirs.score.value, rel=1e-6)
    assert [row.cached for row in two.trace] == [row.cached for row in one.trace]
    assert [row.samples for row in two.trace if row.accepted] == [row.samples for row in one.trace if row.accepted]
    assert [row.accepted for row in two.trace] == [row.accepted for row in one.trace]
    assert all(torch.equal(tensor, two.state_dict()[name]) for name, tensor in one.state_dict().items())


class Gathering(Classifier):
    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("each", self(batch[0]).mean(), on_step=True, on_epoch=True, sync_dist=True)


def test_a_collective_in_every_batch_is_refused_instead_of_hanging(tmp_path: Path) -> None:
    record(tmp_path, [0.1])
    arguments = {"ingredients": tmp_path, "monitor": "each", "mode": "max", "output": tmp_path / "s.ckpt"}
    with pytest.raises(Exception, match=r"\['each'\] are gathered.*on_step=False"):
        trainer(SoupTrainer, **TWO).cook(Gathering(), datamodule=Blobs(held_out=65), **arguments)
    soup = trainer(SoupTrainer, **TWO).cook(Gathering(), datamodule=Blobs(held_out=64), **arguments)
    assert soup.trace[0].samples == 64


class OnRankZero(Classifier):
    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        if self.trainer.is_global_zero:
            self.log("seconds", 1.0, rank_zero_only=True)


def test_what_only_rank_zero_logs_is_left_alone(tmp_path: Path) -> None:
    record(tmp_path, [0.1])
    soup = trainer(SoupTrainer, **TWO).cook(OnRankZero(), datamodule=Blobs(), ingredients=tmp_path)
    assert set(soup.metrics) == {"val_acc", "val_loss"}


class Alone(Classifier):
    """Its metric does not gather, so every process has a score of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.val_acc = MulticlassAccuracy(3, average="micro", sync_on_compute=False)


def test_processes_agree_even_when_their_scores_do_not(tmp_path: Path) -> None:
    record(tmp_path, [0.1, 0.3, 0.6, 0.2])
    soup = trainer(SoupTrainer, **TWO).cook(Alone(), datamodule=Blobs(), ingredients=tmp_path)
    assert soup.score >= max(row.score for row in soup.trace if len(row.mixture) == 1)


def test_fewer_samples_than_processes_are_refused_instead_of_hanging(tmp_path: Path) -> None:
    record(tmp_path, [0.1])
    with pytest.raises(Exception, match="1 samples for 2 processes") as raised:
        trainer(SoupTrainer, **TWO).cook(Classifier(), datamodule=Blobs(held_out=1), ingredients=tmp_path)
    assert MisconfigurationException.__name__ in str(raised.value)


class OnRankOne(Classifier):
    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        if self.trainer.global_rank == 1:
            self.log("alone", 1.0)


def test_what_only_some_processes_log_is_left_out_instead_of_hanging(tmp_path: Path) -> None:
    record(tmp_path, [0.1])
    soup = trainer(SoupTrainer, **TWO).cook(OnRankOne(), datamodule=Blobs(), ingredients=tmp_path)
    assert set(soup.metrics) == {"val_acc", "val_loss"}


@pytest.mark.parametrize("monitor", ["val_acc", "train_loss"])
def test_the_callback_records_once_for_all_processes(tmp_path: Path, monitor: str) -> None:
    torch.manual_seed(0)
    mode = "min" if monitor == "train_loss" else None
    callback = SoupCallback(tmp_path, monitor, mode, save_top_k=2, run="ddp")
    trainer(callbacks=[callback], max_epochs=3, **TWO).fit(Classifier(), datamodule=Blobs())
    found = Ingredients.load(tmp_path)
    assert {ingredient.run for ingredient in found} == {"ddp"}
    assert len(found) <= 2
    assert len(list((tmp_path / "initializations").iterdir())) == 1
    assert not list(tmp_path.rglob("*.tmp"))
    record = json.loads(found[0].path.with_suffix(".json").read_text())
    assert (record["devices"], record["exact"]) == (2, False)
    for ingredient in found:  # what was recorded is what one process finds, but for the sample that Lightning repeats
        if monitor == "val_acc":
            loaded = Classifier.load_from_checkpoint(ingredient.path)
            (result,) = trainer().validate(loaded, datamodule=Blobs(), verbose=False)
            assert result["val_acc"] == pytest.approx(ingredient.metrics["val_acc"], abs=1.01 / 102)
