"""Every subcommand, as a user would run it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule

from lightning_soups import GreedySoup, Ingredients, Soup, SoupCLI, SoupTrainer
from tests.helpers import QUIET, Blobs, Classifier, record, trainer

ROOT = Path(__file__).parents[1]


def lightning_soup(*arguments: str, code: int = 0) -> str:
    """Run the installed console script from the repository's root; returns what it printed."""
    command = [str(Path(sys.executable).with_name("lightning-soup")), *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "120"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("configs") / "shared.yaml"
    quiet = {**QUIET, "accelerator": "cpu", "devices": 1, "max_epochs": 2, "default_root_dir": str(path.parent)}
    del quiet["logger"]
    config = {
        "seed_everything": 3,
        "model": {"class_path": "tests.helpers.Classifier"},
        "data": {"class_path": "tests.helpers.Blobs"},
        "trainer": quiet,
    }
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def swept(shared: Path) -> Path:
    """A sweep through the real entry point, in two parts."""
    directory = shared.parent / "soups"
    config = shared.with_name("sweep.yaml")
    space = {"model.init_args.lr": {"log_uniform": [0.05, 1.0]}, "trainer.max_epochs": {"integer": [1, 3]}}
    config.write_text(yaml.safe_dump({"trials": 3, "dirpath": str(directory), "monitor": "val_acc", "space": space}))
    printed = lightning_soup("sweep", "--config", shared, "--config", config)
    assert "0 trials have succeeded, 3 to run (sampler random, base seed 3)" in printed
    assert "3 ingredients" in printed
    printed = lightning_soup("sweep", "--config", shared, "--config", config, "--trials", "4")
    assert "3 trials have succeeded, 1 to run" in printed
    assert "trial 003" in printed
    assert "trial 002  " not in printed
    return directory


def test_sweep_records_an_ingredient_a_trial(swept: Path, shared: Path) -> None:
    found = Ingredients.load(swept)
    assert [ingredient.run for ingredient in found] == ["trial-000", "trial-001", "trial-002", "trial-003"]
    assert [ingredient.hyperparameters["seed_everything"] for ingredient in found] == [3000, 3001, 3002, 3003]
    assert len({ingredient.hyperparameters["lr"] for ingredient in found}) == 4
    assert {ingredient.monitor for ingredient in found} == {"val_acc"}
    for number, ingredient in enumerate(found):
        (saved,) = (shared.parent / "trials" / f"{number:03d}").rglob("config.yaml")
        config = yaml.safe_load(saved.read_text())
        assert config["model"]["init_args"]["lr"] == ingredient.hyperparameters["lr"]
        assert config["trainer"]["max_epochs"] == ingredient.hyperparameters["max_epochs"]
        (callback,) = config["trainer"]["callbacks"]
        assert callback["class_path"] == "lightning_soups.SoupCallback"


def test_cook_prints_the_trace_and_saves_a_soup_that_test_and_validate_load(swept: Path, shared: Path) -> None:
    printed = lightning_soup("cook", "--config", shared, "--ingredients", swept, "--recipe", "GreedySoup")
    assert "GreedySoup: what it asked" in printed
    assert "4 single ingredients" in printed
    assert "kept" in printed or "left out" in printed
    path = swept / "soups" / "greedy.ckpt"
    assert f"Saved to {path}" in printed
    soup = Soup.load(path)
    printed = lightning_soup("validate", "--config", shared, "--ckpt_path", path)
    assert str(torch.tensor(soup.score.value).item())[:8] in printed
    (expected,) = trainer().test(Classifier.load_from_checkpoint(path), datamodule=Blobs(), verbose=False)
    assert str(expected["test_acc"])[:8] in lightning_soup("test", "--config", shared, "--ckpt_path", path)


def test_cook_takes_a_users_own_recipe_and_output(swept: Path, shared: Path, tmp_path: Path) -> None:
    output = tmp_path / "own.ckpt"
    recipe = {"class_path": "tests.test_cook.Ascending", "init_args": {"share": 0.1}}
    config = tmp_path / "cook.yaml"
    config.write_text(yaml.safe_dump({"recipe": recipe, "ingredients": str(swept), "output": str(output)}))
    lightning_soup("cook", "--config", shared, "--config", config)
    assert list(Soup.load(output).mixture.coefficients.values()) == [0.1, 0.9]


def test_fit_and_predict(shared: Path, tmp_path: Path) -> None:
    callback = {"class_path": "SoupCallback", "init_args": {"dirpath": str(tmp_path), "monitor": "val_acc"}}
    config = tmp_path / "fit.yaml"
    config.write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    lightning_soup("fit", "--config", shared, "--config", config)
    (ingredient,) = Ingredients.load(tmp_path)
    assert ingredient.hyperparameters["seed_everything"] == 3
    lightning_soup("predict", "--config", shared, "--ckpt_path", ingredient.path, "--data", "tests.test_cli.Predicting")


class Predicting(Blobs):
    def predict_dataloader(self):
        return self.test_dataloader()


@pytest.mark.parametrize(
    ("subcommand", "taught"),
    [
        ("fit", ["--trainer.callbacks"]),
        ("validate", ["--ckpt_path"]),
        ("test", ["--ckpt_path"]),
        ("predict", ["--ckpt_path"]),
        (
            "cook",
            ["Where the ingredients are", "GreedySoup", "Where to save the soup", "--monitor"],
        ),
        ("sweep", ["log_uniform", "The same command run again continues", "Optuna's"]),
    ],
)
def test_every_subcommand_explains_itself(subcommand: str, taught: list[str]) -> None:
    printed = " ".join(lightning_soup(subcommand, "--help").split())
    for words in taught:
        assert words in printed


def test_the_command_lists_its_subcommands_and_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "lightning_soups", "--help"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for subcommand in ("fit", "validate", "test", "predict", "cook", "sweep"):
        assert subcommand in printed


# What follows runs the same CLI in this process, which is faster.


@pytest.fixture(autouse=True)
def _no_arguments_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-soup"])


def run(*arguments: object) -> SoupCLI:
    return SoupCLI(args=[str(argument) for argument in arguments])


def sweep_config(tmp_path: Path, **options) -> Path:
    path = tmp_path / "sweep.yaml"
    space = {"model.init_args.lr": {"uniform": [0.1, 0.5]}}
    path.write_text(yaml.safe_dump({"space": space, "trials": 3, "monitor": "val_acc", **options}))
    return path


class Fragile(Classifier):
    """Crashes in the second trial, diverges in the third."""

    def __init__(self, lr: float = 0.1, fate: int = 0) -> None:
        super().__init__(lr)
        self.fate = fate

    def training_step(self, batch, batch_idx):
        if self.fate == 1:
            raise RuntimeError("user's bug")
        return super().training_step(batch, batch_idx) * (float("nan") if self.fate == 2 else 1)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self(batch[0]).mean())


def test_a_trial_that_crashes_or_diverges_is_skipped(shared: Path, tmp_path: Path, capsys) -> None:
    config = sweep_config(
        tmp_path,
        space={"model.init_args.fate": {"categorical": [0, 1, 2]}},
        sampler="grid",
        trials=None,
        dirpath=str(tmp_path / "soups"),
        monitor="val_loss",
        mode="min",
    )
    model = ["--model", "tests.test_cli.Fragile", "--trainer.default_root_dir", tmp_path]
    with pytest.warns(UserWarning, match="never a finite number"):
        run("sweep", "--config", shared, "--config", config, *model)
    assert len(Ingredients.load(tmp_path / "soups")) == 1
    printed = capsys.readouterr().out
    assert "2 of 3 trials failed" in printed
    assert "trial 001: RuntimeError: user's bug" in printed
    assert "trial 002: diverged" in printed
    assert "what they recorded before stays" in printed


def test_a_sweep_in_which_nothing_works_says_so(shared: Path, tmp_path: Path) -> None:
    config = sweep_config(tmp_path, dirpath=str(tmp_path / "soups"), trials=2)
    with pytest.raises(SystemExit, match="No trial has succeeded"):
        run("sweep", "--config", shared, "--config", config, "--model", "tests.test_cli.Fragile", "--model.fate", "1")


def test_a_sweep_uses_the_callback_that_the_config_has(shared: Path, tmp_path: Path) -> None:
    arguments = {"dirpath": str(tmp_path / "own"), "monitor": "val_loss", "mode": "min", "save_top_k": 2}
    config = sweep_config(tmp_path, monitor=None, trials=1)
    content = yaml.safe_load(config.read_text())
    callbacks = [{"class_path": "lightning_soups.SoupCallback", "init_args": arguments}]
    config.write_text(yaml.safe_dump({**content, "trainer": {"callbacks": callbacks}}))
    run("sweep", "--config", shared, "--config", config, "--trainer.default_root_dir", tmp_path)
    found = Ingredients.load(tmp_path / "own")
    assert [ingredient.run for ingredient in found] == ["trial-000", "trial-000"]
    assert {ingredient.monitor for ingredient in found} == {"val_loss"}
    assert (tmp_path / "own" / "sweep.db").exists()


def test_a_sweeps_own_dirpath_and_monitor_win_over_the_callbacks(shared: Path, tmp_path: Path) -> None:
    arguments = {"dirpath": str(tmp_path / "callback"), "monitor": "val_acc"}
    options = {"dirpath": str(tmp_path / "sweep"), "monitor": "val_loss", "mode": "min", "trials": 1}
    config = sweep_config(tmp_path, **options)
    callback = {"class_path": "lightning_soups.SoupCallback", "init_args": arguments}
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "trainer": {"callbacks": callback}}))
    run("sweep", "--config", shared, "--config", config, "--trainer.default_root_dir", tmp_path)
    assert Ingredients.load(tmp_path / "sweep")[0].monitor == "val_loss"
    assert not (tmp_path / "callback").exists()


class Bare(Classifier):
    configure_optimizers = LightningModule.configure_optimizers


def test_what_a_sweep_drew_is_recorded_wherever_it_belongs(shared: Path, tmp_path: Path) -> None:
    space = {
        "optimizer.init_args.lr": {"uniform": [0.1, 0.5]},
        "trainer.gradient_clip_val": {"uniform": [1, 2]},
        "model.init_args.hidden": {"integer": [4, 6]},
    }
    config = sweep_config(tmp_path, dirpath=str(tmp_path / "soups"), space=space, trials=1)
    options = ["--model", "tests.test_cli.Bare", "--optimizer", "torch.optim.SGD", "--optimizer.lr", "0.1"]
    run("sweep", "--config", shared, "--config", config, *options, "--trainer.default_root_dir", tmp_path)
    known = Ingredients.load(tmp_path / "soups")[0].hyperparameters
    assert 0.1 <= known["optimizer.lr"] <= 0.5
    assert 1 <= known["trainer.gradient_clip_val"] <= 2
    assert "model.hidden" not in known
    assert known["hidden"] in (4, 5, 6)


def test_every_subcommands_parser_can_be_given_arguments(shared: Path, capsys) -> None:
    for subcommand in ("fit", "cook", "sweep"):
        with pytest.raises(SystemExit, match="0"):
            SoupCLI(parser_kwargs={subcommand: {"description": "my own words"}}, args=[subcommand, "--help"])
        assert "my own words" in capsys.readouterr().out


def test_each_trial_has_a_log_folder_of_its_own(shared: Path, tmp_path: Path) -> None:
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(tmp_path / "logs")}}
    config = sweep_config(tmp_path, dirpath=str(tmp_path / "soups"), trials=2)
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "trainer": {"logger": logger}}))
    run("sweep", "--config", shared, "--config", config)
    folders = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("metrics.csv"))
    assert [folder.parts[:3] for folder in folders] == [("logs", "trials", "000"), ("logs", "trials", "001")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"monitor": None}, "pass `dirpath` and `monitor`"),
        ({"space": {"model.init_args.lrr": {"uniform": [0, 1]}}}, "`space` gives 'model.init_args.lrr' the value 0.0"),
        ({"space": {"trainer.max_epoch": {"integer": [1, 2]}}}, "`space` gives 'trainer.max_epoch' the value 1"),
        ({"space": {"model.init_args.lr": {"categorical": [0.1, "high"]}}}, "'model.init_args.lr' the value 'high'"),
        ({"space": {"lr": {"normal": [0, 1]}}}, "'normal'"),
    ],
)
def test_a_wrong_sweep_is_refused_before_its_first_trial(shared, tmp_path, capsys, options, message) -> None:
    dirpath = tmp_path / "soups"
    config = sweep_config(tmp_path, **{"dirpath": str(dirpath), **options})
    with pytest.raises(SystemExit, match="2"):
        run("sweep", "--config", shared, "--config", config)
    assert message in capsys.readouterr().err
    assert not (dirpath / "runs").exists()


@pytest.mark.parametrize("source", ["nowhere", "configs"])
def test_ingredients_that_are_not_there_are_a_short_error(shared: Path, capsys, source: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("cook", "--config", shared, "--ingredients", source)
    error = capsys.readouterr().err
    assert source in error
    assert "Traceback" not in error


def test_processes_started_from_the_command_line_cannot_sweep(shared: Path, tmp_path: Path, capsys) -> None:
    config = sweep_config(tmp_path, dirpath=str(tmp_path / "soups"))
    with pytest.raises(SystemExit, match="2"):
        run("sweep", "--config", shared, "--config", config, "--trainer.devices", "2", "--trainer.strategy", "ddp")
    assert "trainer.devices=1, or strategy 'ddp_spawn'" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.ckpt"))


def test_without_optuna_a_sweep_says_what_to_install(shared: Path, tmp_path: Path, monkeypatch) -> None:
    for name in [
        name for name in sys.modules if name.split(".")[0] == "optuna" or name == "lightning_soups.sweep.sweep"
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "lightning_soups.sweep.space", raising=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    config = sweep_config(tmp_path, dirpath=str(tmp_path / "soups"))
    with pytest.raises(SystemExit, match=r"pip install 'lightning-soups\[sweep\]'"):
        run("sweep", "--config", shared, "--config", config)


def test_an_existing_cli_can_be_replaced(shared: Path, tmp_path: Path) -> None:
    """A project's own classes and arguments, in its own script."""
    config = yaml.safe_load(shared.read_text())
    own = {"trainer": config["trainer"], "seed_everything": 1}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(own))
    cli = SoupCLI(Classifier, Blobs, run=False, args=["--config", str(path), "--model.lr", "0.2"])
    assert isinstance(cli.trainer, SoupTrainer)
    assert cli.model.lr == 0.2
    config = sweep_config(tmp_path, dirpath=str(tmp_path / "s"), space={"model.lr": {"uniform": [0.1, 0.2]}}, trials=1)
    arguments = ["sweep", "--config", str(path), "--config", str(config)]
    SoupCLI(Classifier, Blobs, save_config_callback=None, args=arguments)
    assert len(Ingredients.load(tmp_path / "s")) == 1
    with pytest.raises(MisconfigurationException, match=r"subclass of lightning_soups\.SoupTrainer, got Trainer"):
        SoupCLI(Classifier, Blobs, trainer_class=SoupTrainer.__mro__[1], args=arguments)


def test_help_shows_the_default_recipe_and_json_configs_work(shared: Path, swept: Path, tmp_path: Path) -> None:
    path = tmp_path / "cook.json"
    path.write_text(json.dumps({"ingredients": str(swept), "output": str(tmp_path / "s.ckpt")}))
    with pytest.warns(UserWarning, match="4 different initializations"):  # every trial has its own seed
        run("cook", "--config", shared, "--config", path)
    assert Soup.load(tmp_path / "s.ckpt").recipe == GreedySoup.__name__


def test_what_a_recipe_refuses_is_a_short_error_and_a_users_own_error_keeps_its_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path / "soups", [0.1])
    quiet = ["--trainer.logger", "false", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    shared = ["--model", "tests.helpers.Classifier", *quiet, "--ingredients", str(tmp_path / "soups")]
    with pytest.raises(SystemExit):
        SoupCLI(args=["cook", *shared, "--data", "tests.helpers.Blobs", "--recipe", "ModelStock"])
    assert "error: Model Stock needs at least two ingredients" in capsys.readouterr().err
    with pytest.raises(ValueError, match="users own"):
        SoupCLI(args=["cook", *shared, "--data", "tests.test_cli.Broken"])


class Broken(Blobs):
    def val_dataloader(self) -> None:
        raise ValueError("the users own")
