"""Modules, metrics and hooks that are legal, and far from ordinary."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_soups import (
    GreedySoup,
    Ingredients,
    LearnedSoup,
    ModelStock,
    PrunedSoup,
    Soup,
    SoupTrainer,
    UniformSoup,
    WiseFT,
)
from tests.helpers import CLASSES, FEATURES, Blobs, Classifier, record, trainer

RECIPES = [GreedySoup(), UniformSoup(), PrunedSoup(), LearnedSoup(steps=1), WiseFT(), ModelStock()]


def cook(directory: Path, module: LightningModule, recipe: Any, **arguments: Any) -> Soup:
    return trainer(SoupTrainer).cook(
        module, datamodule=Blobs(), ingredients=directory, recipe=recipe, output=directory / "s.ckpt", **arguments
    )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three ingredients of the ordinary classifier."""
    directory = tmp_path_factory.mktemp("soups")
    record(directory, [0.1, 0.5, 1.0])
    return directory


class Logging(Classifier):
    """Logs one number, whatever its weights are."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.log("number", torch.tensor(self.value))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
@pytest.mark.parametrize(("value", "mode"), [(math.nan, "max"), (math.inf, "min")])
def test_soups_without_a_score_are_not_served(recorded: Path, recipe: Any, value: float, mode: str) -> None:
    with pytest.raises(MisconfigurationException, match=r"scores (NaN|inf) by 'number': nothing is saved"):
        cook(recorded, Logging(value), recipe, monitor="number", mode=mode)
    assert not (recorded / "s.ckpt").exists()


class SometimesNaN(Classifier):
    """Its metric is NaN for weights beyond a limit."""

    limit = 0.0

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        size = float(self.net[0].weight.abs().sum())
        self.log("number", torch.tensor(math.nan if size > self.limit else size))


def test_ingredients_whose_metric_is_nan_come_last_and_do_not_join(recorded: Path) -> None:
    sizes = {
        path: float(torch.load(path, weights_only=True)["state_dict"]["net.0.weight"].abs().sum())
        for path in recorded.rglob("runs/*/*.ckpt")
    }
    module = SometimesNaN()
    module.limit = sorted(sizes.values())[0]
    soup = cook(recorded, module, GreedySoup(), monitor="number", mode="max")
    assert soup.ingredients[0].path == min(sizes, key=sizes.__getitem__)
    assert not math.isnan(soup.score.value)
    (recorded / "s.ckpt").unlink()


class Silent(Classifier):
    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        return None


def test_a_module_that_logs_nothing_is_told_so(recorded: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"once per epoch were: \[\]\. Log it in validation_step"):
        cook(recorded, Silent(), GreedySoup())


class Lazy(Classifier):
    """Shapes are known after the first batch."""

    def __init__(self, lr: float = 0.05) -> None:
        super().__init__(lr)
        self.net = nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(CLASSES))


class Configured(Classifier):
    """Built by the trainer."""

    def __init__(self, lr: float = 0.05) -> None:
        super().__init__(lr)
        self.net = None

    def configure_model(self) -> None:
        if self.net is None:
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, CLASSES))


class Renaming(Classifier):
    """Its checkpoints have names of their own."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = {f"x.{name}": value for name, value in checkpoint["state_dict"].items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = {name[2:]: value for name, value in checkpoint["state_dict"].items()}


class Popping(Classifier):
    """Takes what it saved out of a checkpoint, and a weight that it does not want."""

    def __init__(self, lr: float = 0.05) -> None:
        super().__init__(lr)
        self.strict_loading = False

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["mine"] = {"version": 1}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        assert checkpoint.pop("mine") == {"version": 1}
        del checkpoint["state_dict"]["net.0.bias"]


class Changing(Classifier):
    """Its validation changes its weights and its buffers."""

    def __init__(self, lr: float = 0.05) -> None:
        super().__init__(lr)
        self.register_buffer("steps", torch.zeros(()), persistent=False)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        with torch.no_grad():
            self.net[0].weight.mul_(0.9)
        self.steps += 1
        self.log("steps", self.steps)


class NoParameters(LightningModule):
    """Holds one counter."""

    def __init__(self, lr: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("count", torch.tensor(3))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        return None

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_acc", torch.tensor(1.0))

    def configure_optimizers(self) -> None:
        return None


class Nothing(NoParameters):
    def __init__(self, lr: float = 1.0) -> None:
        super().__init__()
        del self.count


REFUSED = {
    (Renaming, "LearnedSoup"): "nothing to learn by",
    (Renaming, "WiseFT"): "do not fit together",
    (Renaming, "ModelStock"): "do not fit together",
    (NoParameters, "LearnedSoup"): "nothing to learn by",
    (NoParameters, "ModelStock"): "at least two ingredients",  # all have the same weights, which count once
    (Nothing, "LearnedSoup"): "nothing to learn by",
    (Nothing, "ModelStock"): "at least two ingredients",
    # what is built later than the seed is set starts from other weights in each run
    (Lazy, "LearnedSoup"): "it started from other weights",
    (Lazy, "WiseFT"): "it started from other weights",
    (Lazy, "ModelStock"): "it started from other weights",
}


@pytest.mark.parametrize("make", [Lazy, Configured, Renaming, Popping, Changing, NoParameters, Nothing])
def test_modules_that_are_built_or_loaded_in_their_own_way(tmp_path: Path, make: type[LightningModule]) -> None:
    record(tmp_path, [0.1, 0.5, 1.0], make=make, mode="max")
    for recipe in (GreedySoup(), LearnedSoup(steps=1), WiseFT(), ModelStock()):
        if (why := REFUSED.get((make, recipe.name))) is not None:
            with pytest.raises((MisconfigurationException, ValueError), match=why):
                cook(tmp_path, make(), recipe)
            continue
        soup = cook(tmp_path, make(), recipe)
        again = make.load_from_checkpoint(soup.path)
        score = trainer().validate(again, datamodule=Blobs(), verbose=False)[0]["val_acc"]
        if make not in (Changing, Popping, Lazy):  # a module that keeps a fresh bias is another each time
            assert score == pytest.approx(soup.score.value, abs=1e-6)


def test_what_a_module_does_to_itself_does_not_leak_into_the_next_question(tmp_path: Path) -> None:
    record(tmp_path, [0.1, 0.5, 1.0], make=Changing)
    soup = cook(tmp_path, Changing(), GreedySoup())
    assert soup.metrics["steps"] == pytest.approx((32 + 2 * 32 + 3 * 32 + 4 * 5) / 101)  # from 1 in each pass


class Raising(Classifier):
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.steps = checkpoint["optimizer_states"]


def test_what_a_hook_raises_is_explained(recorded: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"Raising\.on_load_checkpoint raised KeyError.*no optimizer"):
        cook(recorded, Raising(), GreedySoup())


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_one_ingredient(recorded: Path, recipe: Any) -> None:
    only = Ingredients.load(recorded)[:1]
    if recipe.name == "ModelStock":
        with pytest.raises(ValueError, match="at least two ingredients"):
            cook(recorded, Classifier(), recipe, where="run == 'run-00'")
        return
    soup = cook(recorded, Classifier(), recipe, where="run == 'run-00'")
    assert soup.candidates == tuple(only)
    (recorded / "s.ckpt").unlink()
