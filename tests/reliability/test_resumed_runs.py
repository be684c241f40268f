"""A run that resumes from before what it had recorded, because it was killed in between."""

import shutil
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_soups import SoupCallback
from lightning_soups.records import find_records, read_record
from tests.helpers import trainer
from tests.reliability.victims import Ordered, Plain


def fit(folder: Path, resume: Path | None = None) -> None:
    torch.manual_seed(0)
    recording = SoupCallback(folder / "soups", "val_acc", save_top_k=2, run="run")
    every_epoch = ModelCheckpoint(folder / "training", "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    fitting = trainer(callbacks=[recording, every_epoch], enable_checkpointing=True, max_epochs=3)
    fitting.fit(Plain(lr=1.0), datamodule=Ordered(batch_size=16), ckpt_path=resume, weights_only=True)


def recorded(folder: Path) -> list[tuple[str, float]]:
    return [(path.stem, read_record(path)["metrics"]["val_acc"]) for path in find_records(folder / "soups")]


def test_what_was_recorded_is_not_recorded_twice(tmp_path: Path) -> None:
    fit(tmp_path)
    wanted = recorded(tmp_path)
    assert [name for name, _ in wanted] == ["epoch=001-step=000012", "epoch=002-step=000018"]
    fit(tmp_path, resume=tmp_path / "training" / "epoch=0.ckpt")
    assert recorded(tmp_path) == wanted


def test_checkpoints_without_a_record_are_deleted_and_nothing_else(tmp_path: Path) -> None:
    fit(tmp_path)
    run = tmp_path / "soups" / "runs" / "run"
    before = sorted(path.name for path in run.iterdir())
    for name in ("epoch=000-step=000006.ckpt", "mine.ckpt"):
        shutil.copy(run / before[0], run / name)
    fit(tmp_path, resume=tmp_path / "training" / "epoch=2.ckpt")
    assert sorted(path.name for path in run.iterdir()) == sorted([*before, "mine.ckpt"])
