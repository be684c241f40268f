"""Projects that were there before us: their own command line, checkpoints and scripts."""

import os
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI, SaveConfigCallback
from torch import nn

from lightning_soups import Ingredients, Soup, SoupCLI, SoupTrainer
from lightning_soups.cli import main
from tests.helpers import FEATURES, QUIET, Blobs, Classifier, blobs, trainer

EXAMPLE = Path(__file__).parents[1] / "examples" / "existing_project"
QUIETLY = ["--trainer.logger=false", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]


@pytest.fixture(autouse=True)
def _no_arguments_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-soup"])


# The example, as it was before us: each of its scripts is run as it is.


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example in which three runs were trained."""
    folder = tmp_path_factory.mktemp("example") / "project"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("runs", "__pycache__"))
    for lr in ("0.02", "0.03", "0.04"):
        quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
        options = ["--model.lr", lr, "--trainer.logger.version", f"lr-{lr}", *quiet]
        script(folder, "train.py", "fit", "--config", "config.yaml", *options)
    return folder


def script(folder: Path, name: str, *arguments: object) -> None:
    """Run one of the project's scripts, or ``lightning-soup`` as its console script does, in its folder."""
    before, argv, path = Path.cwd(), sys.argv, list(sys.path)
    os.chdir(folder)
    sys.argv = [name, *map(str, arguments)]
    try:
        if name == "lightning-soup":
            main()
        else:
            sys.path.insert(0, str(folder))
            runpy.run_path(name, run_name="__main__")
    finally:
        os.chdir(before)
        sys.argv, sys.path[:] = argv, path
        sys.modules.pop("digits", None)


def test_a_soup_from_last_months_checkpoints_without_the_training_config(project: Path, capsys) -> None:
    source = "runs/*/checkpoints/best.ckpt"
    script(project, "lightning-soup", "ls", source)
    listed = capsys.readouterr().out
    assert [line.split()[1] for line in listed.splitlines()[3:]] == ["lr-0.02", "lr-0.03", "lr-0.04"]
    script(project, "lightning-soup", "cook", "--ingredients", source, *QUIETLY)
    printed = capsys.readouterr().out
    assert "The model and the data are built as for 'runs/lr-0.02/checkpoints/best.ckpt'" in printed
    soup = Soup.load(project / "runs" / "soups" / "greedy.ckpt")
    assert len(soup.candidates) == 3
    assert max(row.score.value for row in soup.trace) == soup.score.value
    singles = [one.metrics["val_acc"] for one in Ingredients.load(str(project / source))]
    assert soup.score.value >= max(singles) > 0.9
    script(project, "predict.py", "runs/soups/greedy.ckpt")
    assert capsys.readouterr().out.startswith("0.9")


def test_their_cli_replaced_by_ours_needs_no_config_either(project: Path, capsys) -> None:
    theirs = (project / "train.py").read_text()
    ours = theirs.replace("from lightning.pytorch.cli import", "from lightning_soups import").replace(
        "LightningCLI", "SoupCLI"
    )
    (project / "train_soups.py").write_text(ours)
    output = project / "other.ckpt"
    options = ["--where", "lr < 0.035", "--output", output, *QUIETLY]
    script(project, "train_soups.py", "cook", "--ingredients", "runs/*/checkpoints/best.ckpt", *options)
    assert len(Soup.load(output).candidates) == 2


def test_their_cli_records_with_the_callback_in_yaml(project: Path) -> None:
    config = yaml.safe_load((project / "config.yaml").read_text())
    arguments = {"dirpath": "soups", "monitor": "val_acc", "mode": "max"}
    config["trainer"]["callbacks"].append({"class_path": "lightning_soups.SoupCallback", "init_args": arguments})
    config["trainer"].update(max_epochs=1, enable_progress_bar=False, enable_model_summary=False)
    (project / "soups.yaml").write_text(yaml.safe_dump(config))
    script(project, "train.py", "fit", "--config", "soups.yaml")
    script(project, "lightning-soup", "cook", "--ingredients", "soups", *QUIETLY)
    assert Soup.load(project / "soups" / "soups" / "greedy.ckpt").monitor == "val_acc"


# What is built from the first ingredient.


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of a LightningCLI that takes any class, and of one with classes of its own."""
    folder = tmp_path_factory.mktemp("trained")
    by_path = ["--model", "tests.helpers.Classifier", "--data", "tests.helpers.Blobs"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py"])
        for name, classes, arguments in [("any", (), by_path), ("own", (Classifier, Blobs), [])]:
            best = ModelCheckpoint(folder / name, "best", monitor="val_acc", mode="max")
            defaults = {
                **QUIET,
                "enable_checkpointing": True,
                "callbacks": [best],
                "accelerator": "cpu",
                "max_epochs": 1,
            }
            options = [*arguments, "--model.hidden=5", "--model.lr=0.3", "--data.held_out=40"]
            LightningCLI(*classes, save_config_callback=None, trainer_defaults=defaults, args=["fit", *options])
    return folder


def cook(source: Path, *arguments: str, classes: tuple = (), cli: type[SoupCLI] = SoupCLI, **kwargs) -> SoupCLI:
    args = ["cook", "--ingredients", str(source / "best.ckpt"), *QUIETLY, *arguments]
    return cli(*classes, args=args, **kwargs)


def built(cli: SoupCLI) -> tuple:
    return type(cli.model), cli.model.hparams.lr, cli.model.hparams.hidden, cli.datamodule.held_out


MODEL, DATA = "--model=tests.helpers.Classifier", "--data=tests.helpers.Blobs"


@pytest.mark.parametrize(
    ("run", "arguments", "classes", "expected"),
    [
        ("any", [], (), (0.3, 5, 40)),
        ("any", ["--model.lr=9", "--data.held_out", "30"], (), (9, 5, 30)),
        ("any", [MODEL, "--model.lr", "9"], (), (9, 5, 40)),
        ("any", [], (Classifier, Blobs), (0.3, 5, 40)),
        ("own", [MODEL, DATA], (), (0.3, 5, 40)),
        ("own", [], (Classifier, Blobs), (0.3, 5, 40)),
        ("own", ["--model.lr=9", "--data.held_out=30"], (Classifier, Blobs), (9, 5, 30)),
    ],
)
def test_model_and_data_are_those_of_the_checkpoint_and_what_is_given_wins(
    trained: Path, run: str, arguments: list[str], classes: tuple, expected: tuple
) -> None:
    assert built(cook(trained / run, *arguments, classes=classes)) == (Classifier, *expected)


def test_configs_win_key_by_key(trained: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"model": {"class_path": "tests.helpers.Classifier", "init_args": {"lr": 0.7}}}))
    assert built(cook(trained / "any", "--config", str(config))) == (Classifier, 0.7, 5, 40)


class Wider(Classifier):
    """Its arguments are partly those of its base class, partly others, all required."""

    def __init__(self, depth: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.depth = depth


def test_required_arguments_links_and_keyword_arguments(trained: Path, capsys) -> None:
    class Linked(SoupCLI):
        def add_arguments_to_parser(self, parser):
            parser.link_arguments("data.batch_size", "model.depth")

    cli = cook(trained / "own", classes=(Wider, Blobs), cli=Linked)
    assert (*built(cli), cli.model.depth) == (Wider, 0.3, 5, 40, 32)
    with pytest.raises(SystemExit):
        cook(trained / "any", "--model", "tests.test_existing_projects.Wider")
    assert "depth" in capsys.readouterr().err


def test_study_builds_the_same(trained: Path, tmp_path: Path) -> None:
    options = ["--study=Interpolation", "--study.start=rank-1", "--study.end=rank-2", "--output", str(tmp_path / "s")]
    checkpoint = torch.load(trained / "own" / "best.ckpt", weights_only=True)
    checkpoint["state_dict"] = {name: 2 * value for name, value in checkpoint["state_dict"].items()}
    torch.save(checkpoint, tmp_path / "other.ckpt")
    args = ["study", "--ingredients", f"[{trained}/any/best.ckpt, {tmp_path}/other.ckpt]", *QUIETLY, *options]
    assert built(SoupCLI(args=args)) == (Classifier, 0.3, 5, 40)


def edited(source: Path, path: Path, **hyperparameters) -> Path:
    checkpoint = torch.load(source / "best.ckpt", weights_only=True)
    checkpoint["hyper_parameters"].update(hyperparameters)
    path.mkdir()
    torch.save(checkpoint, path / "best.ckpt")
    return path


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"_class_path": "__main__.Net"}, "Pass --model my_script.Net, with the module in which Net is defined"),
        ({"_class_path": "gone.Net"}, "No module named 'gone'). Pass --model my_module.Net"),
        ({"_class_path": "Net"}, "Pass --model my_module.Net"),
        ({"_class_path": "os.system"}, "'os.system', which"),
        ({"_class_path": "tests.helpers.Blobs"}, "is no LightningModule"),
        ({"_class_path": "tests.other_name.OtherClassifier"}, "is written against `pytorch_lightning`"),
        ({"hidden": "many"}, "hidden"),
    ],
)
def test_a_class_or_argument_that_cannot_be_used_is_a_short_error(
    trained: Path, tmp_path: Path, capsys, hyperparameters: dict, message: str
) -> None:
    with pytest.raises(SystemExit):
        cook(edited(trained / "any", tmp_path / "run", **hyperparameters))
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_an_unknown_class_says_what_to_pass(trained: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        cook(trained / "own", DATA)
    assert "Pass --model my_module.MyModel; its arguments are taken from the checkpoint (lr, hidden)" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(("arguments", "classes"), [([MODEL, DATA], ()), ([], (Classifier, Blobs))])
def test_what_was_saved_besides_arguments_is_left_out(
    trained: Path, tmp_path: Path, arguments: list[str], classes: tuple
) -> None:
    run = edited(trained / "own", tmp_path / "run", note="no argument")
    assert built(cook(run, *arguments, classes=classes)) == (Classifier, 0.3, 5, 40)


class Dictionary(LightningModule):
    """Takes its hyperparameters as one dictionary."""

    def __init__(self, settings: dict) -> None:
        super().__init__()
        self.save_hyperparameters(settings)
        self.net = nn.Linear(FEATURES, settings["outputs"])

    def training_step(self, batch, batch_idx):
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.net(batch[0]).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_without_any_cli(tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path, "best", monitor="val_loss", mode="min")
    loaders = [torch.utils.data.DataLoader(blobs(20, seed=seed), 10) for seed in (1, 2)]
    trainer(callbacks=[best], enable_checkpointing=True).fit(Dictionary({"outputs": 2}), *loaders)
    cli = cook(tmp_path, "--model=tests.test_existing_projects.Dictionary", DATA)
    assert cli.model.hparams.outputs == 2
    model = Dictionary.load_from_checkpoint(tmp_path / "best.ckpt")
    soup = trainer(SoupTrainer).cook(model, loaders[1], ingredients=str(tmp_path / "best.ckpt"), output=tmp_path / "s")
    assert (soup.monitor, soup.score.mode) == ("val_loss", "min")


# SoupCLI instead of LightningCLI, with every argument kept.


class Saved(SaveConfigCallback):
    count = 0

    def save_config(self, trainer, pl_module, stage):
        type(self).count += 1


@pytest.mark.parametrize(
    ("classes", "kwargs", "arguments"),
    [
        ((Classifier, Blobs), {}, ["--model.lr=0.2"]),
        ((), {}, [MODEL, DATA, "--model.lr=0.2"]),
        ((Classifier, Blobs), {"subclass_mode_model": True, "subclass_mode_data": True}, [MODEL, DATA]),
        ((Classifier,), {"auto_configure_optimizers": False, "seed_everything_default": 7}, [DATA]),
        ((Classifier, Blobs), {"trainer_defaults": {"max_epochs": 3, "callbacks": []}}, []),
        ((Classifier, Blobs), {"parser_kwargs": {"default_env": True}, "load_from_checkpoint_support": False}, []),
        ((Classifier, Blobs), {"save_config_callback": Saved, "save_config_kwargs": {"overwrite": True}}, []),
    ],
)
def test_every_argument_of_lightning_cli_means_the_same(classes: tuple, kwargs: dict, arguments: list[str]) -> None:
    args = [*QUIETLY, *arguments]
    theirs, ours = (cli(*classes, **kwargs, run=False, args=args) for cli in (LightningCLI, SoupCLI))
    assert ours.config == theirs.config
    assert ours.model.hparams == theirs.model.hparams
    assert ours.trainer.max_epochs == theirs.trainer.max_epochs
    assert isinstance(ours.trainer, SoupTrainer)
    kinds = [[type(callback) for callback in cli.trainer.callbacks] for cli in (theirs, ours)]
    assert kinds[0] == kinds[1]


def test_a_users_own_cli_fits_records_and_cooks(tmp_path: Path) -> None:
    class OwnCLI(SoupCLI):
        def add_arguments_to_parser(self, parser):
            parser.add_argument("--note", default="none")
            parser.link_arguments("data.batch_size", "model.hidden")

        def before_fit(self):
            self.noted = self.config.fit.note

    config = tmp_path / "defaults.yaml"
    config.write_text(yaml.safe_dump({"note": "from a file"}))
    callback = ["--trainer.callbacks=lightning_soups.SoupCallback", "--trainer.callbacks.monitor=val_acc"]
    callback.append(f"--trainer.callbacks.dirpath={tmp_path / 'soups'}")
    kwargs = {
        "model_class": Classifier,
        "datamodule_class": Blobs,
        "trainer_defaults": {"max_epochs": 1, "default_root_dir": str(tmp_path)},
        "parser_kwargs": {"fit": {"default_config_files": [str(config)]}, "cook": {"description": "ours"}},
        "save_config_callback": Saved,
        "save_config_kwargs": {"config_filename": "mine.yaml", "overwrite": True},
    }
    Saved.count = 0
    fitted = OwnCLI(args=["fit", *QUIETLY, *callback, "--data.batch_size=16"], **kwargs)
    assert (fitted.noted, fitted.model.hparams.hidden, Saved.count) == ("from a file", 16, 1)
    cooked = OwnCLI(args=["cook", *QUIETLY, "--ingredients", str(tmp_path / "soups")], **kwargs)
    assert (cooked.model.hparams.hidden, cooked.datamodule.batch_size, Saved.count) == (16, 16, 1)
    assert (tmp_path / "soups" / "soups" / "greedy.ckpt").is_file()
