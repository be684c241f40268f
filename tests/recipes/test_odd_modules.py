"""Recipes on modules and ingredients that are legitimate but not ordinary."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_soups import GreedySoup, Ingredients, LearnedSoup, ModelStock, Soup, SoupTrainer
from lightning_soups.weights import read_checkpoint
from tests.helpers import CLASSES, FEATURES, Blobs, Classifier, blobs, record, resave, trainer


def cook(directory: Path, recipe: Any, module: Classifier | None = None, **arguments: Any) -> Soup:
    defaults = {"datamodule": Blobs(), "ingredients": directory, "output": directory / "s.ckpt"}
    return trainer(SoupTrainer).cook(module or Classifier(), recipe=recipe, **{**defaults, **arguments})


def as_mixed(soup: Soup) -> dict[str, Tensor]:
    """What a soup's coefficients say, in float64."""
    members = {member: read_checkpoint(member.path)["state_dict"] for member in soup.mixture}
    mixed = {}
    for name in next(iter(members.values())):
        own = soup.mixture.coefficients_of(name)
        mixed[name] = sum(own[member] * tensors[name].double() for member, tensors in members.items()).float()
    return mixed


class Tied(Classifier):
    """One weight with two names."""

    def __init__(self, lr: float = 0.05) -> None:
        super().__init__(lr)
        self.net = nn.Sequential(nn.Linear(FEATURES, CLASSES, bias=False), nn.Linear(CLASSES, CLASSES))
        self.dec = nn.Linear(FEATURES, CLASSES)
        self.dec.weight = self.net[0].weight

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + torch.tanh(self.dec(x))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("recipe", [ModelStock(), LearnedSoup(steps=10, by_layer=True)])
def test_tied_weights_stay_tied_by_layer(tmp_path: Path, recipe: Any, shared: bool) -> None:
    """Also when the files hold the tied weights twice, and the coefficients say how each was mixed."""
    record(tmp_path, [0.1, 0.5, 1.0], make=Tied)
    if not shared:
        for path in tmp_path.glob("runs/*/*.ckpt"):
            checkpoint = read_checkpoint(path)
            resave(path, {**checkpoint, "state_dict": {k: v.clone() for k, v in checkpoint["state_dict"].items()}})
    soup = cook(tmp_path, recipe, Tied())
    state = soup.state_dict()
    assert torch.equal(state["net.0.weight"], state["dec.weight"])
    assert soup.mixture.layers
    for name, tensor in as_mixed(soup).items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=1e-6)


def test_model_stock_leaves_the_initialization_out_of_the_ingredients(tmp_path: Path) -> None:
    record(tmp_path, [0.1, 0.5, 1.0])
    found = Ingredients.load(tmp_path)
    expected = cook(tmp_path, ModelStock())
    theta0 = found.initialization.path
    with_it = Ingredients.load([*(str(one.path) for one in found), str(theta0)], theta0)
    soup = cook(tmp_path, ModelStock(), ingredients=with_it)
    assert soup.mixture == expected.mixture
    for layer in ("", *soup.mixture.layers):
        assert sum(soup.mixture.coefficients_of(layer).values()) == pytest.approx(1)


class Teacher(Classifier):
    """A frozen part that checkpoints do not hold."""

    def __init__(self, lr: float = 0.05) -> None:
        super().__init__(lr)
        self.teacher = nn.Linear(FEATURES, CLASSES).requires_grad_(False)
        self.strict_loading = False

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if "teacher" not in name}


@pytest.mark.parametrize(
    "recipe", [GreedySoup(), ModelStock(), LearnedSoup(steps=3), LearnedSoup(steps=3, by_layer=True)]
)
def test_parameters_that_checkpoints_do_not_hold_are_left_alone(tmp_path: Path, recipe: Any) -> None:
    record(tmp_path, [0.1, 0.5, 1.0], make=Teacher)
    soup = cook(tmp_path, recipe, Teacher())
    assert not [name for name in soup.state_dict() if "teacher" in name]


class TwoSets(Blobs):
    def val_dataloader(self) -> list[DataLoader]:
        return [DataLoader(blobs(64, seed=2), batch_size=16), DataLoader(blobs(40, seed=4), batch_size=16)]


class OnlyFirst(Classifier):
    """Logs its loss for the first of two dataloaders."""

    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        if dataloader_idx == 0:
            super().validation_step(batch, batch_idx)
        else:
            self.log("other", self(batch[0]).mean())


def test_only_dataloaders_that_log_the_loss_are_learned_on(tmp_path: Path) -> None:
    record(tmp_path, [0.1, 0.5, 1.0])
    arguments = {"monitor": "val_acc/dataloader_idx_0", "mode": "max"}
    soup = cook(tmp_path, LearnedSoup(steps=5), OnlyFirst(), datamodule=TwoSets(), **arguments)
    assert sum(soup.mixture.coefficients.values()) == pytest.approx(1)
    with pytest.raises(MisconfigurationException, match=r"Numbers that were logged: \['other', 'val_loss'\]"):
        cook(tmp_path, LearnedSoup(loss="nope"), OnlyFirst(), datamodule=TwoSets(), **arguments)


class Diverging(Classifier):
    """Its loss is NaN, though its weights are not."""

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.log("diverged", self(batch[0]).mean() * float("nan"))


def test_learning_by_a_loss_that_is_nan_is_refused(tmp_path: Path) -> None:
    record(tmp_path, [0.1, 0.5, 1.0])
    with pytest.raises(
        ValueError, match="'diverged' of the uniform soup, where learning starts, is not a finite number"
    ):
        cook(tmp_path, LearnedSoup(loss="diverged", steps=3), Diverging())


class Caching(Classifier):
    """Keeps a tensor in a plain attribute."""

    scale: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = torch.ones(8)
        return self.net[2](self.net[1](self.net[0](x)) * self.scale)


def test_tensors_kept_from_inference_mode(tmp_path: Path) -> None:
    record(tmp_path, [0.1, 0.5])
    with pytest.raises(MisconfigurationException, match="Pass inference_mode=False to the trainer"):
        cook(tmp_path, LearnedSoup(steps=3), Caching())
    trainer(SoupTrainer, inference_mode=False).cook(
        Caching(), datamodule=Blobs(), ingredients=tmp_path, recipe=LearnedSoup(steps=3)
    )


class Masked(Blobs):
    """Batches whose first tensor has nothing to do with the number of samples."""

    def val_dataloader(self) -> DataLoader:
        def collate(samples: list) -> dict[str, Tensor]:
            inputs, labels = zip(*samples, strict=True)
            return {"mask": torch.ones(2, FEATURES), "x": torch.stack(inputs), "y": torch.stack(labels)}

        return DataLoader(blobs(101, seed=2), batch_size=8, collate_fn=collate)


class OfMasked(Classifier):
    differentiated: ClassVar[list[int]] = []

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        logits = self(batch["x"] * batch["mask"][0])
        if torch.is_grad_enabled():
            self.differentiated.append(len(batch["y"]))
        self.val_acc(logits, batch["y"])
        self.log("val_acc", self.val_acc, batch_size=len(batch["y"]))
        self.log("val_loss", nn.functional.cross_entropy(logits, batch["y"]), batch_size=len(batch["y"]))


def test_samples_are_counted_as_they_are_logged(tmp_path: Path) -> None:
    record(tmp_path, [0.1, 0.5])
    cook(tmp_path, LearnedSoup(steps=1, batch_size=32), OfMasked(), datamodule=Masked())
    assert 24 < sum(OfMasked.differentiated) <= 32


def test_progress_with_other_data_is_not_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same names, other weights: learning starts again."""
    record(tmp_path, [0.1, 0.5, 1.0])
    recipe = LearnedSoup(steps=12)
    with monkeypatch.context() as patched:
        patched.setattr("lightning_soups.evaluation.journal.Journal.forget", lambda self: None)
        cook(tmp_path, recipe)
    assert (tmp_path / ".s.ckpt.journal.state").exists()
    for ingredient in Ingredients.load(tmp_path):
        checkpoint = read_checkpoint(ingredient.path)
        weights = {name: 0.5 * tensor for name, tensor in checkpoint["state_dict"].items()}
        resave(ingredient.path, {**checkpoint, "state_dict": weights})
    resumed = cook(tmp_path, recipe)
    assert not (tmp_path / ".s.ckpt.journal.state").exists()
    assert resumed.mixture == cook(tmp_path, recipe).mixture


def test_recorded_order_is_by_the_metric_that_is_cooked_by(tmp_path: Path) -> None:
    record(tmp_path, [0.02, 0.5, 1.0, 3.0])
    found = Ingredients.load(tmp_path)
    lowest = min(found, key=lambda one: one.metrics["val_loss"])
    highest = found.best_first()[0]
    assert lowest != highest
    options = {"order": "recorded", "max_members": 1}
    assert cook(tmp_path, GreedySoup(**options)).ingredients == (highest,)
    soup = cook(tmp_path, GreedySoup(**options), monitor="val_loss", mode="min")
    assert soup.ingredients == (lowest,)
    with pytest.raises(ValueError, match="no recorded 'nope' of these ingredients"):
        cook(tmp_path, GreedySoup(**options), monitor="nope", mode="min")
