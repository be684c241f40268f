"""Modules written against ``pytorch_lightning``: recorded, cooked from, and told what to change."""

from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import WeightAveraging

from lightning_soups import Ingredients, Interpolation, SoupCallback, SoupCLI, SoupTrainer
from tests.helpers import QUIET, Blobs, Classifier, trainer

other = pytest.importorskip("pytorch_lightning")

SAYS = r"tests\.other_name\.Other(Classifier|Blobs) is written against `pytorch_lightning`.*replace `import pytorch_li"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same training under both names, with averaged weights: what was recorded, and ModelCheckpoint's file."""
    from tests.other_name import OtherBlobs, OtherClassifier

    folder = tmp_path_factory.mktemp("names")
    averaging = {"use_buffers": True}
    for name, module, data, make, average in [
        ("one", Classifier, Blobs, trainer, WeightAveraging(**averaging)),
        ("other", OtherClassifier, OtherBlobs, None, other.callbacks.WeightAveraging(**averaging)),
    ]:
        callbacks = [average, SoupCallback(folder / name, "val_acc", run="run")]
        torch.manual_seed(0)
        if make is None:
            best = other.callbacks.ModelCheckpoint(folder / "kept", "best", monitor="val_loss", mode="min")
            options = {**QUIET, "enable_checkpointing": True, "accelerator": "cpu", "devices": 1, "max_epochs": 2}
            other.Trainer(**options, callbacks=[*callbacks, best]).fit(module(), data())
        else:
            make(callbacks=callbacks).fit(module(), data())
    return folder, folder / "kept" / "best.ckpt"


def test_the_callback_records_the_same_in_a_trainer_of_either_name(recorded: tuple[Path, Path]) -> None:
    (one,), (another,) = (Ingredients.load(recorded[0] / name) for name in ("one", "other"))
    assert one.metrics == another.metrics
    assert (one.mode, one.epoch, one.step, one.exact, one.initialization) == (
        another.mode,
        another.epoch,
        another.step,
        another.exact,
        another.initialization,
    )
    assert another.hyperparameters["lr"] == 0.05
    first, second = (torch.load(path.path, weights_only=True)["state_dict"] for path in (one, another))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_their_checkpoints_are_ingredients(recorded: tuple[Path, Path], tmp_path: Path) -> None:
    sources = [str(recorded[1]), *(str(one.path) for one in Ingredients.load(recorded[0] / "other"))]
    found = Ingredients.load(sources)
    assert (found[0].monitor, found[0].mode) == ("val_loss", "min")
    cook = trainer(SoupTrainer).cook
    soup = cook(Classifier(), datamodule=Blobs(), ingredients=found, monitor="val_acc", output=tmp_path / "soup.ckpt")
    assert [one.is_copy for one in soup.left_out] == [True], "both are of one moment"
    assert len(soup.candidates) == 1


def test_every_entrance_says_what_to_change(recorded: tuple[Path, Path], capsys, monkeypatch) -> None:
    from tests.other_name import OtherBlobs, OtherClassifier

    source = str(recorded[0] / "other")
    soups = trainer(SoupTrainer)
    for given in [
        {"model": OtherClassifier(), "datamodule": Blobs()},
        {"model": Classifier(), "datamodule": OtherBlobs()},
        {"model": Classifier(), "dataloaders": OtherBlobs()},
    ]:
        with pytest.raises(MisconfigurationException, match=SAYS):
            soups.cook(**given, ingredients=source)
        with pytest.raises(MisconfigurationException, match=SAYS):
            soups.study(**given, ingredients=source, study=Interpolation())
    monkeypatch.setattr("sys.argv", ["lightning-soup"])
    with pytest.raises(MisconfigurationException, match=SAYS):
        SoupCLI(OtherClassifier, args=["cook", "--ingredients", source])
    for arguments in [
        ["cook", "--ingredients", source, "--model", "tests.other_name.OtherClassifier"],
        ["fit", "--model", "tests.helpers.Classifier", "--data", "tests.other_name.OtherBlobs", "--data.batch_size=4"],
    ]:
        with pytest.raises(SystemExit):
            SoupCLI(args=arguments)
        assert "is written against `pytorch_lightning`" in capsys.readouterr().err


def test_a_trainer_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tests.other_name import OtherBlobs, OtherClassifier

    monkeypatch.setattr(other, "__version__", "1.9.5")
    older = other.Trainer(**QUIET, accelerator="cpu", max_epochs=1, callbacks=[SoupCallback(tmp_path, "val_acc")])
    with pytest.raises(MisconfigurationException, match=r"pytorch_lightning 1\.9\.5\. Install pytorch-lightning=="):
        older.fit(OtherClassifier(), OtherBlobs())
