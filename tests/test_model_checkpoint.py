"""Scores that ModelCheckpoint left, from its real files."""

from pathlib import Path

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_soups import Ingredient
from tests.helpers import Blobs, Classifier, trainer


def test_each_file_has_the_score_it_was_kept_for(tmp_path: Path) -> None:
    by_loss = ModelCheckpoint(
        tmp_path / "loss", "{epoch}", monitor="val_loss", mode="min", save_top_k=2, save_last=True
    )
    by_acc = ModelCheckpoint(tmp_path / "acc" / "checkpoints", "best", monitor="val_acc", mode="max")
    light = ModelCheckpoint(tmp_path / "light", "best", monitor="train_loss", mode="min", save_weights_only=True)
    last = ModelCheckpoint(tmp_path / "plain", "plain")
    fit = trainer(callbacks=[by_loss, by_acc, light, last], enable_checkpointing=True, max_epochs=3)
    fit.fit(Classifier(), datamodule=Blobs())
    assert len(by_loss.best_k_models) == 2
    for path, value in by_loss.best_k_models.items():
        one = Ingredient.from_checkpoint(Path(path))
        assert (one.monitor, one.mode, one.run) == ("val_loss", "min", "loss")
        assert one.metrics["val_loss"] == pytest.approx(float(value))
        assert not one.exact
    one = Ingredient.from_checkpoint(Path(by_acc.best_model_path))
    assert (one.monitor, one.mode, one.run) == ("val_acc", "max", "acc")
    assert one.metrics["val_acc"] == pytest.approx(float(by_acc.best_model_score))
    moved = tmp_path / "elsewhere" / "best.ckpt"
    moved.parent.mkdir()
    Path(by_acc.best_model_path).rename(moved)
    assert Ingredient.from_checkpoint(moved).metrics == one.metrics
    for other in (light.best_model_path, last.best_model_path, by_loss.last_model_path):
        assert (Ingredient.from_checkpoint(Path(other)).monitor, Ingredient.from_checkpoint(Path(other)).metrics) == (
            None,
            {},
        )
