import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from lightning_soups import Ingredients, SoupCallback
from lightning_soups.weights import fingerprint, read_checkpoint
from tests.helpers import Blobs, Classifier, trainer


def fit(callback: SoupCallback | list, module=None, ckpt_path=None, **kwargs):
    callbacks = callback if isinstance(callback, list) else [callback]
    fitting = trainer(callbacks=callbacks, **kwargs)
    fitting.fit(module or Classifier(), datamodule=Blobs(), ckpt_path=ckpt_path)
    return fitting


class Scripted(Classifier):
    """Logs the given values, one an epoch."""

    def __init__(self, values: list[float], lr: float = 0.05) -> None:
        super().__init__(lr)
        self.values = values

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("scripted", self.values[min(self.current_epoch, len(self.values) - 1)])


def test_a_record_says_everything(tmp_path: Path) -> None:
    seed_everything(11)
    module = Classifier(lr=0.3)
    start = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    fitted = fit(SoupCallback(tmp_path, "val_acc", run="mine", save_top_k=-1), module, max_epochs=3)
    records = sorted((tmp_path / "runs" / "mine").glob("*.json"))
    assert [path.stem for path in records] == [
        "epoch=000-step=000003",
        "epoch=001-step=000006",
        "epoch=002-step=000009",
    ]
    record = json.loads(records[-1].read_text())
    assert record["metrics"].keys() == {"val_acc", "val_loss", "train_loss"}
    assert record["metrics"]["val_acc"] == pytest.approx(fitted.callback_metrics["val_acc"].item())
    assert record["metrics"]["val_loss"] == pytest.approx(fitted.callback_metrics["val_loss"].item(), rel=1e-6)
    assert record["hyperparameters"] == {
        "lr": 0.3,
        "hidden": 8,
        "train": 96,
        "held_out": 101,
        "batch_size": 32,
        "max_epochs": 3,
        "seed_everything": 11,
    }
    assert (record["epoch"], record["step"], record["run"], record["devices"]) == (2, 9, "mine", 1)
    assert (record["monitor"], record["mode"], record["exact"]) == ("val_acc", "max", True)
    assert record["versions"].keys() == {"python", "lightning-soups", "lightning", "torch", "torchmetrics"}
    assert record["initialization"] == fingerprint(start)
    initialization = read_checkpoint(tmp_path / "initializations" / f"{record['initialization']}.ckpt")
    assert all(torch.equal(tensor, start[name]) for name, tensor in initialization["state_dict"].items())


def test_checkpoints_hold_weights_only_and_load(tmp_path: Path) -> None:
    module = Classifier(lr=0.3)
    fit(SoupCallback(tmp_path, "val_acc"), module)
    (ingredient,) = Ingredients.load(tmp_path)
    checkpoint = read_checkpoint(ingredient.path)
    assert not {"optimizer_states", "lr_schedulers", "callbacks"} & set(checkpoint)
    loaded = Classifier.load_from_checkpoint(ingredient.path)
    (result,) = trainer().validate(loaded, datamodule=Blobs(), verbose=False)
    assert result["val_acc"] == pytest.approx(ingredient.metrics["val_acc"], abs=1e-7)
    assert loaded.lr == 0.3


@pytest.mark.parametrize(
    ("mode", "top_k", "kept"),
    [("max", 1, [3]), ("max", 2, [1, 3]), ("min", 1, [2]), ("min", 2, [0, 2]), ("max", -1, [0, 1, 2, 3, 4])],
)
def test_the_best_k_are_kept(tmp_path: Path, mode: str, top_k: int, kept: list[int]) -> None:
    values = [0.3, 0.5, 0.1, 0.7, 0.5]
    fit(SoupCallback(tmp_path, "scripted", mode, top_k), Scripted(values), max_epochs=5)
    found = Ingredients.load(tmp_path)
    assert [ingredient.epoch for ingredient in found] == kept
    assert [ingredient.metrics["scripted"] for ingredient in found] == pytest.approx([values[epoch] for epoch in kept])
    assert len(list(found[0].path.parent.iterdir())) == 2 * len(kept)


def test_an_equal_score_does_not_replace_an_earlier_one(tmp_path: Path) -> None:
    fit(SoupCallback(tmp_path, "scripted", "max"), Scripted([0.5, 0.5, 0.5]), max_epochs=3)
    assert [ingredient.epoch for ingredient in Ingredients.load(tmp_path)] == [0]


def test_numbers_that_are_not_finite_are_not_recorded(tmp_path: Path) -> None:
    values = [math.nan, 0.5, math.inf]
    fit(SoupCallback(tmp_path / "some", "scripted", "max", -1), Scripted(values), max_epochs=3)
    assert [ingredient.epoch for ingredient in Ingredients.load(tmp_path / "some")] == [1]
    with pytest.warns(UserWarning, match="recorded nothing for run 'bad'.*never a finite number"):
        fit(SoupCallback(tmp_path / "none", "scripted", "max", run="bad"), Scripted([math.nan]))


def test_mode_is_inferred_from_a_metric_and_asked_for_otherwise(tmp_path: Path) -> None:
    fit(SoupCallback(tmp_path, "val_acc"))
    assert Ingredients.load(tmp_path)[0].mode == "max"
    with pytest.raises(MisconfigurationException, match="mode='max' or mode='min'"):
        fit(SoupCallback(tmp_path, "val_loss"))


def test_a_monitor_that_is_not_logged_is_an_error_that_lists_what_is(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"'val_f1'.*\['train_loss', 'val_acc', 'val_loss'\]"):
        fit(SoupCallback(tmp_path, "val_f1", "max"), max_epochs=50)

    class StepOnly(Classifier):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            self.log("step_loss", loss)
            return loss

    with pytest.raises(MisconfigurationException, match=r"'step_loss' was logged with on_epoch=False"):
        fit(SoupCallback(tmp_path, "step_loss", "min"), StepOnly())


def test_validation_that_runs_late_or_never_is_no_error(tmp_path: Path) -> None:
    late = SoupCallback(tmp_path, "val_acc")
    fit(late, max_epochs=4, check_val_every_n_epoch=3)
    assert [ingredient.epoch for ingredient in Ingredients.load(tmp_path)] == [2]
    for options in ({"check_val_every_n_epoch": 3}, {"max_steps": 2}):
        with pytest.warns(UserWarning, match="recorded nothing.*validation never ran"):
            fit(SoupCallback(tmp_path / "none", "val_acc"), max_epochs=2, **options)


def test_a_metric_of_the_training_loop(tmp_path: Path) -> None:
    fitted = fit(SoupCallback(tmp_path, "train_loss", "min"), max_epochs=3)
    (ingredient,) = Ingredients.load(tmp_path)
    assert ingredient.metrics["train_loss"] == pytest.approx(fitted.callback_metrics["train_loss"].item(), rel=1e-6)
    assert ingredient.epoch == 2
    assert not ingredient.exact


@pytest.mark.parametrize("option", [{"limit_val_batches": 2}, {"limit_val_batches": 0.5}, {"overfit_batches": 1}])
def test_a_score_on_part_of_the_data_is_not_called_exact(tmp_path: Path, option: dict) -> None:
    fit(SoupCallback(tmp_path, "val_acc"), **option)
    assert not Ingredients.load(tmp_path)[0].exact


def test_it_gets_along_with_other_callbacks_and_loggers(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "mc", monitor="val_acc", mode="max", save_last=True)
    stopping = EarlyStopping("val_loss", patience=1, min_delta=10)
    callback = SoupCallback(tmp_path, "val_acc")
    fitted = fit(
        [callback, checkpoint, stopping],
        enable_checkpointing=True,
        logger=CSVLogger(tmp_path / "logs"),
        max_epochs=20,
    )
    assert fitted.current_epoch < 20
    (ingredient,) = Ingredients.load(tmp_path)
    assert ingredient.metrics["val_acc"] == pytest.approx(checkpoint.best_model_score.item())
    assert fitted.test(datamodule=Blobs(), ckpt_path="best", verbose=False)
    assert len(list((tmp_path / "mc").glob("*.ckpt"))) == 2


def test_under_weight_averaging_the_averaged_weights_are_recorded(tmp_path: Path) -> None:
    """They are the ones that were validated, and Lightning leaves them out of weights-only checkpoints."""

    class Pretrained(Classifier):
        def setup(self, stage: str) -> None:
            torch.nn.init.constant_(self.net[0].weight, 0.25)

    averaging = EMAWeightAveraging(decay=0.5, update_every_n_steps=1)
    fit([averaging, SoupCallback(tmp_path, "val_loss", "min")], Pretrained(lr=0.5), max_epochs=3)
    (ingredient,) = Ingredients.load(tmp_path)
    initialization = read_checkpoint(tmp_path / "initializations" / f"{ingredient.initialization}.ckpt")["state_dict"]
    assert (initialization["net.0.weight"] == 0.25).all()  # the averaging callback copied the module before its setup
    assert fingerprint(initialization) == ingredient.initialization
    checkpoint = read_checkpoint(ingredient.path)
    assert not {"current_model_state", "averaging_state"} & set(checkpoint)
    loaded = Classifier.load_from_checkpoint(ingredient.path)
    (result,) = trainer().validate(loaded, datamodule=Blobs(), verbose=False)
    assert result["val_loss"] == pytest.approx(ingredient.metrics["val_loss"], rel=1e-6)


def test_lightnings_default_checkpoint_is_not_taken_away(tmp_path: Path) -> None:
    with_default = trainer(callbacks=[SoupCallback(tmp_path, "val_acc")], enable_checkpointing=True)
    assert any(isinstance(callback, ModelCheckpoint) for callback in with_default.callbacks)


def test_several_callbacks_record_one_run(tmp_path: Path) -> None:
    callbacks = [SoupCallback(tmp_path / "a", "val_acc"), SoupCallback(tmp_path / "b", "val_loss", "min")]
    fitted = fit(callbacks)
    fitted.save_checkpoint(tmp_path / "full.ckpt")
    assert len(Ingredients.load(tmp_path / "a")) == len(Ingredients.load(tmp_path / "b")) == 1


def test_a_resumed_fit_goes_on_with_its_run(tmp_path: Path) -> None:
    first = fit(SoupCallback(tmp_path / "soup", "scripted", "max", 2), Scripted([0.5, 0.4]), max_epochs=2)
    first.save_checkpoint(tmp_path / "full.ckpt")
    (before,) = {ingredient.run for ingredient in Ingredients.load(tmp_path / "soup")}
    initialization = Ingredients.load(tmp_path / "soup")[0].initialization
    fit(
        SoupCallback(tmp_path / "soup", "scripted", "max", 2),
        Scripted([0.5, 0.4, 0.45, 0.3]),
        ckpt_path=tmp_path / "full.ckpt",
        max_epochs=4,
    )
    found = Ingredients.load(tmp_path / "soup")
    assert {ingredient.run for ingredient in found} == {before}
    assert [ingredient.epoch for ingredient in found] == [0, 2]  # epoch 1 (0.4) gave way to epoch 2 (0.45)
    assert {ingredient.initialization for ingredient in found} == {initialization}
    assert len(list((tmp_path / "soup" / "initializations").iterdir())) == 1


def test_a_resumed_fit_that_comes_by_the_same_epoch_again_overwrites_nothing(tmp_path: Path) -> None:
    """The crash came after epoch 1 was recorded; the checkpoint to resume from is of epoch 0."""
    full = ModelCheckpoint(tmp_path / "full", every_n_epochs=1, save_top_k=-1, filename="{epoch}")
    callbacks = [SoupCallback(tmp_path / "soup", "scripted", "max", -1), full]
    fit(callbacks, Scripted([0.1, 0.9]), enable_checkpointing=True, max_epochs=2)
    resumed = SoupCallback(tmp_path / "soup", "scripted", "max", -1)
    again = fit(resumed, Scripted([0.1, 0.3], lr=0.5), ckpt_path=tmp_path / "full" / "epoch=0.ckpt", max_epochs=2)
    found = {ingredient.path.name: ingredient for ingredient in Ingredients.load(tmp_path / "soup")}
    names = ["epoch=000-step=000003.ckpt", "epoch=001-step=000006-2.ckpt", "epoch=001-step=000006.ckpt"]
    assert sorted(found) == names
    assert [found[name].metrics["scripted"] for name in names] == pytest.approx([0.1, 0.3, 0.9])
    saved = read_checkpoint(found[names[1]].path)["state_dict"]
    assert all(torch.equal(saved[name], tensor) for name, tensor in again.lightning_module.state_dict().items())


def test_validations_of_one_step_do_not_overwrite_each_other(tmp_path: Path) -> None:
    """Raw torch optimizers under manual optimization leave the global step at 0."""
    scores = iter([0.9, 0.1, 0.2])

    class Manual(Classifier):
        automatic_optimization = False

        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self.net[0].bias.data += 1

        def on_validation_epoch_end(self) -> None:
            if not self.trainer.sanity_checking:
                self.log("scripted", next(scores))

    fit(SoupCallback(tmp_path, "scripted", "max", 2), Manual(), max_epochs=1, val_check_interval=1)
    assert sorted(one.metrics["scripted"] for one in Ingredients.load(tmp_path)) == pytest.approx([0.2, 0.9])


def test_resuming_survives_a_checkpoint_that_the_user_deleted(tmp_path: Path) -> None:
    first = fit(SoupCallback(tmp_path / "soup", "scripted", "max", 2), Scripted([0.5, 0.4]), max_epochs=2)
    first.save_checkpoint(tmp_path / "full.ckpt")
    Ingredients.load(tmp_path / "soup")[0].path.unlink()
    resumed = SoupCallback(tmp_path / "soup", "scripted", "max", 2)
    with pytest.warns(UserWarning, match="Left alone while resuming.*missing"):
        fit(resumed, Scripted([0.1, 0.1, 0.6]), ckpt_path=tmp_path / "full.ckpt", max_epochs=3)
    assert len(list((tmp_path / "soup").rglob("*.ckpt"))) == 3  # an initialization and two ingredients


def test_resuming_without_another_validation_is_no_error(tmp_path: Path) -> None:
    first = fit(SoupCallback(tmp_path / "soup", "val_acc"), max_epochs=2)
    first.save_checkpoint(tmp_path / "full.ckpt")
    fit(SoupCallback(tmp_path / "soup", "val_acc"), ckpt_path=tmp_path / "full.ckpt", max_epochs=5, max_steps=8)
    assert len(Ingredients.load(tmp_path / "soup")) == 1


def test_a_metric_that_the_module_resets_itself_is_recorded_right(tmp_path: Path) -> None:
    class Resets(Classifier):
        def on_validation_epoch_end(self) -> None:
            self.val_acc.reset()

    fitted = fit(SoupCallback(tmp_path, "val_acc", save_top_k=-1), Resets())
    assert Ingredients.load(tmp_path)[-1].metrics["val_acc"] == fitted.callback_metrics["val_acc"].item() > 0


def test_a_training_metric_of_the_same_name_does_not_count(tmp_path: Path) -> None:
    class Both(Classifier):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            self.log("loss", loss / 100, on_epoch=True)
            return loss

        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self.log("loss", torch.nn.functional.cross_entropy(self(batch[0]), batch[1]))

    fit(SoupCallback(tmp_path, "loss", "min"), Both(), max_epochs=4, check_val_every_n_epoch=3)
    (ingredient,) = Ingredients.load(tmp_path)
    assert ingredient.epoch == 2
    assert ingredient.metrics["loss"] > 0.1


def test_modules_that_complete_themselves_when_training_starts(tmp_path: Path) -> None:
    class Late(Classifier):
        """Loads its weights in on_fit_start, completes a lazy layer in the sanity check, saves what training makes."""

        def __init__(self) -> None:
            super().__init__()
            self.net[0] = torch.nn.LazyLinear(8)

        def on_fit_start(self) -> None:
            torch.nn.init.constant_(self.net[2].weight, 0.5)

        def on_train_start(self) -> None:
            self.made = 1
            torch.nn.init.constant_(self.net[0].weight, 0.25)

        def on_save_checkpoint(self, checkpoint: dict) -> None:
            checkpoint["made"] = self.made

    fit(SoupCallback(tmp_path, "val_acc"), Late())
    (ingredient,) = Ingredients.load(tmp_path)
    start = read_checkpoint(tmp_path / "initializations" / f"{ingredient.initialization}.ckpt")["state_dict"]
    assert fingerprint(start) == ingredient.initialization
    assert (start["net.0.weight"] == 0.25).all()
    assert (start["net.2.weight"] == 0.5).all()
    assert read_checkpoint(ingredient.path)["made"] == 1


def test_resuming_into_another_directory_starts_a_run_of_unknown_initialization(tmp_path: Path) -> None:
    fit(SoupCallback(tmp_path / "a", "val_acc")).save_checkpoint(tmp_path / "full.ckpt")
    fit(SoupCallback(tmp_path / "b", "val_acc"), ckpt_path=tmp_path / "full.ckpt", max_epochs=3)
    assert Ingredients.load(tmp_path / "b")[0].initialization is None
    assert not (tmp_path / "b" / "initializations").exists()


def test_testing_from_a_checkpoint_does_not_make_the_next_fit_a_resumed_one(tmp_path: Path) -> None:
    callback = SoupCallback(tmp_path, "val_acc")
    fitted = fit(callback)
    fitted.save_checkpoint(tmp_path / "full.ckpt")
    fitted.test(Classifier(), datamodule=Blobs(), ckpt_path=tmp_path / "full.ckpt", verbose=False, weights_only=False)
    fit(callback)
    assert len({ingredient.run for ingredient in Ingredients.load(tmp_path)}) == 2


def test_several_fits_in_one_process_are_several_runs(tmp_path: Path) -> None:
    callback = SoupCallback(tmp_path, "val_acc")
    for _ in range(3):
        torch.manual_seed(0)
        fit(callback, Classifier())
    found = Ingredients.load(tmp_path)
    assert len(found) == 3
    assert len({ingredient.initialization for ingredient in found}) == 1
    assert len(list((tmp_path / "initializations").iterdir())) == 1


def test_a_run_name_that_is_taken_gets_a_number(tmp_path: Path) -> None:
    for _ in range(3):
        fit(SoupCallback(tmp_path, "val_acc", run="lr/0.1"))
    assert [ingredient.run for ingredient in Ingredients.load(tmp_path)] == ["lr_0.1", "lr_0.1-2", "lr_0.1-3"]


def test_processes_that_record_into_one_directory_at_once(tmp_path: Path) -> None:
    """All want the same run name and start from the same weights."""
    script = (
        "import sys, torch; from tests.helpers import *; torch.manual_seed(0); module = Classifier();"
        " callback = SoupCallback(sys.argv[1], 'val_acc', run='same', save_top_k=-1);"
        " trainer(callbacks=[callback], max_epochs=20).fit(module, datamodule=Blobs())"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    root = Path(__file__).parents[1]
    processes = [subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL) for _ in range(4)]
    assert [process.wait(timeout=120) for process in processes] == [0] * 4
    found = Ingredients.load(tmp_path)
    assert sorted({ingredient.run for ingredient in found}) == ["same", "same-2", "same-3", "same-4"]
    assert len(found) == 80
    assert all(read_checkpoint(ingredient.path)["epoch"] == ingredient.epoch for ingredient in found)
    assert len(list((tmp_path / "initializations").iterdir())) == 1
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_initialization_need_not_be_saved(tmp_path: Path) -> None:
    fit(SoupCallback(tmp_path, "val_acc", save_initialization=False))
    assert Ingredients.load(tmp_path)[0].initialization is not None
    assert not (tmp_path / "initializations").exists()


def test_a_dry_run_records_nothing(tmp_path: Path) -> None:
    fit(SoupCallback(tmp_path / "soup", "val_acc"), fast_dev_run=True)
    assert not (tmp_path / "soup").exists()


def test_validating_outside_of_fit_records_nothing(tmp_path: Path) -> None:
    validating = trainer(callbacks=[SoupCallback(tmp_path / "soup", "val_acc")])
    validating.validate(Classifier(), datamodule=Blobs(), verbose=False)
    assert not (tmp_path / "soup").exists()


def test_hyperparameters_that_cannot_be_read_back_safely_are_pointed_out(tmp_path: Path) -> None:
    class Odd(Classifier):
        def __init__(self, where: Path) -> None:
            super().__init__()
            self.save_hyperparameters()

    with pytest.warns(UserWarning, match=r"cannot be read safely.*pathlib.*ignore="):
        fit(SoupCallback(tmp_path, "val_acc"), Odd(tmp_path))
    assert json.loads(next(tmp_path.glob("runs/*/*.json")).read_text())["hyperparameters"]["where"] == str(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"monitor": ""}, "`monitor`"),
        ({"mode": "up"}, "'min' or 'max', got 'up'"),
        ({"save_top_k": 0}, "at least 1, or -1 to keep all, got 0"),
        ({"save_top_k": -2}, "got -2"),
        ({"dirpath": "nowhere://bucket/x"}, "Protocol not known: nowhere"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SoupCallback(**{"dirpath": "soups", "monitor": "val_acc", **arguments})
