"""Model Stock against its formula, written out for flattened tensors."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_soups import Ingredients, ModelStock, SoupTrainer
from lightning_soups.recipes.model_stock import ratio
from lightning_soups.weights import read_checkpoint
from tests.helpers import Blobs, Classifier, record, trainer


def reference(ways: list[Tensor]) -> float:
    """N cos / (1 + (N - 1) cos), the cosines averaged over pairs."""
    flat = [way.double().flatten() for way in ways]
    cosines = [float(a @ b / (a.norm() * b.norm())) for a, b in itertools.combinations(flat, 2)]
    cosine = max(0.0, sum(cosines) / len(cosines))
    return len(ways) * cosine / (1 + (len(ways) - 1) * cosine)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_every_layer_follows_the_formula(tmp_path: Path, count: int) -> None:
    record(tmp_path, [0.02, 0.1, 0.3, 0.5, 0.8][:count])
    found = Ingredients.load(tmp_path)
    soup = trainer(SoupTrainer).cook(Classifier(), datamodule=Blobs(), ingredients=tmp_path, recipe=ModelStock())
    theta0 = read_checkpoint(found.initialization.path)["state_dict"]
    members = [read_checkpoint(one.path)["state_dict"] for one in found]
    shares = set()
    for name, tensor in soup.state_dict().items():
        share = reference([member[name].double() - theta0[name].double() for member in members])
        mean = torch.stack([member[name].double() for member in members]).mean(dim=0)
        torch.testing.assert_close(tensor, (share * mean + (1 - share) * theta0[name]).float(), rtol=0, atol=2e-7)
        assert 0 <= share <= 1
        shares.add(round(share, 6))
    assert len(shares) > 1
    assert len([row for row in soup.trace if row.samples]) <= 1  # the score of what was served, at most


def test_two_ingredients_meet_the_papers_closed_form() -> None:
    """For N = 2, t = 2 cos / (1 + cos)."""
    for degrees in (0.0, 30.0, 60.0, 85.0):
        angle = torch.tensor(degrees).double().deg2rad()
        gram = torch.tensor([[4.0, 6 * float(angle.cos())], [6 * float(angle.cos()), 9.0]]).double()
        cosine = float(angle.cos())
        assert ratio(gram) == pytest.approx(2 * cosine / (1 + cosine))


@pytest.mark.parametrize(
    ("gram", "share"),
    [
        ([[1.0, -0.4999], [-0.4999, 1.0]], 0.0),
        ([[1.0, -0.5, -0.5], [-0.5, 1.0, -0.5], [-0.5, -0.5, 1.0]], 0.0),  # the pole at -1 / (N - 1)
        ([[1.0, 1.0], [1.0, 1.0]], 1.0),
        ([[0.0, 0.0], [0.0, 1.0]], None),  # one never moved: no pair has an angle
        ([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 0.0]], 3 * 0.5 / 2),
    ],
)
def test_the_ratio_stays_in_range(gram: list[list[float]], share: float | None) -> None:
    got = ratio(torch.tensor(gram).double())
    assert got == (None if share is None else pytest.approx(share))


def test_what_is_refused(tmp_path: Path) -> None:
    record(tmp_path, [0.1])
    arguments = {"datamodule": Blobs(), "recipe": ModelStock(), "output": tmp_path / "s.ckpt"}
    with pytest.raises(ValueError, match="at least two ingredients to compare their directions, got 1"):
        trainer(SoupTrainer).cook(Classifier(), ingredients=tmp_path, **arguments)
    record(tmp_path / "still", [0.0, 0.0])  # of which one is a copy
    with pytest.raises(ValueError, match="at least two ingredients to compare their directions, got 1"):
        trainer(SoupTrainer).cook(Classifier(), ingredients=tmp_path / "still", **arguments)
