"""Passes of the kept loop leave the loggers alone."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from lightning_soups import SoupTrainer
from lightning_soups.evaluation.muted import MutedLogger
from tests.helpers import Blobs, Classifier, record, trainer


class Talkative(Classifier):
    """Logs in every way there is."""

    folders: ClassVar[set[object]] = set()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.log("in_steps", 1.0, on_step=True, on_epoch=True)
        self.logger.log_metrics({"by_hand": 1.0}, step=batch_idx)
        self.logger.log_hyperparams({"late": 1})

    def on_validation_epoch_end(self) -> None:
        self.logger.experiment.add_scalar("in_the_experiment", 1.0)
        self.logger.experiment.add_text("words", "words")
        self.logger.save()
        self.folders.add((self.logger.name, self.logger.version, self.logger.log_dir, self.trainer.log_dir))


class Metrics(Callback):
    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen.append(dict(trainer.callback_metrics))


def test_single_passes_log_nothing(tmp_path: Path) -> None:
    record(tmp_path, [0.1, 0.3])
    reference = Metrics()
    trainer(callbacks=[reference], logger=TensorBoardLogger(tmp_path)).validate(
        Talkative(), datamodule=Blobs(), verbose=False
    )
    Talkative.folders.clear()
    logger, metrics = TensorBoardLogger(tmp_path, name="tb", version=7), Metrics()
    cooking = trainer(SoupTrainer, logger=[logger, CSVLogger(tmp_path, name="csv")], callbacks=[metrics])
    soup = cooking.cook(Talkative(), datamodule=Blobs(), ingredients=tmp_path)

    events = EventAccumulator(logger.log_dir).Reload()
    ours = {tag for tag in events.Tags()["scalars"] if tag != "hp_metric"}  # Lightning's own, with the hyperparameters
    assert {tag.split("/")[0] for tag in ours} == {"cook", "soup"}
    assert not any("words" in tag for tag in events.Tags()["tensors"])
    lines = (tmp_path / "csv" / "version_0" / "metrics.csv").read_text().splitlines()
    assert len(lines) == 1 + len(soup.trace) + 1  # the header, the questions, the soup
    assert "by_hand" not in lines[0]

    (plain,) = reference.seen
    assert metrics.seen
    assert all(seen.keys() == plain.keys() for seen in metrics.seen)
    assert {"val_acc", "in_steps_epoch"} <= plain.keys()
    assert Talkative.folders == {("tb", 7, logger.log_dir, logger.log_dir)}
    assert cooking.loggers[0] is logger


class Failing(Classifier):
    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        raise RuntimeError("no step")


def test_the_loggers_are_back_after_an_error(tmp_path: Path) -> None:
    record(tmp_path, [0.1])
    logger = CSVLogger(tmp_path)
    cooking = trainer(SoupTrainer, logger=logger)
    with pytest.raises(RuntimeError, match="no step"):
        cooking.cook(Failing(), datamodule=Blobs(), ingredients=tmp_path)
    assert cooking.loggers == [logger]


def test_what_a_stand_in_knows(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="name", version="one", sub_dir="below")
    muted = MutedLogger(logger)
    assert (muted.name, muted.version, muted.root_dir, muted.sub_dir) == ("name", "one", logger.root_dir, "below")
    assert muted.log_dir == logger.log_dir
    with pytest.raises(AttributeError, match="no_such_thing"):
        muted.no_such_thing  # noqa: B018
    muted.log_graph(Classifier())
    muted.experiment.add_image("image", None)
    assert not Path(logger.log_dir).exists()
