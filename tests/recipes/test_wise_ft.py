"""WiSE-FT against a plain loop over whole state dicts."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lightning_soups import GreedySoup, Ingredients, Soup, SoupTrainer, UniformSoup, WiseFT
from lightning_soups.weights import read_checkpoint
from tests.helpers import Blobs, Classifier, blobs, record, trainer


def accuracy(state_dict: dict[str, Tensor]) -> float:
    model = Classifier()
    model.load_state_dict(state_dict)
    inputs, labels = blobs(101, seed=2).tensors
    with torch.no_grad():
        return float((model(inputs).argmax(dim=1) == labels).double().mean())


def between(start: dict[str, Tensor], end: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    return {name: ((1 - alpha) * start[name].double() + alpha * end[name].double()).float() for name in start}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("soups")
    record(directory, [0.1, 0.5, 1.0])
    return directory


@pytest.mark.parametrize("endpoint", [UniformSoup(), UniformSoup(top_k=1), GreedySoup()])
def test_the_path_and_the_choice(recorded: Path, endpoint, tmp_path: Path) -> None:
    alphas = [0.0, 0.25, 0.5, 0.8, 1.0, 1.2]
    end = trainer(SoupTrainer).cook(
        Classifier(), datamodule=Blobs(), ingredients=recorded, recipe=endpoint, output=tmp_path / "end.ckpt"
    )
    soup = trainer(SoupTrainer).cook(
        Classifier(),
        datamodule=Blobs(),
        ingredients=recorded,
        recipe=WiseFT(endpoint, alphas),
        output=tmp_path / "w.ckpt",
    )
    theta0 = read_checkpoint(Ingredients.load(recorded).initialization.path)["state_dict"]
    points = {alpha: between(theta0, end.state_dict(), alpha) for alpha in alphas}
    scores = {alpha: accuracy(point) for alpha, point in points.items()}
    path = {row.label: row.score.value for row in soup.trace if row.label}
    assert path == {f"α = {alpha:g}": pytest.approx(score, abs=1e-6) for alpha, score in scores.items()}
    best = max(scores.values())
    chosen = min((alpha for alpha in alphas if scores[alpha] == best), key=lambda alpha: abs(alpha - 0.5))
    assert soup.score.value == pytest.approx(best, abs=1e-6)
    for name, tensor in soup.state_dict().items():
        torch.testing.assert_close(tensor, points[chosen][name], rtol=0, atol=2e-7)
    loaded = Soup.load(soup.path)
    assert loaded.mixture == soup.mixture
    assert [row.mixture for row in loaded.trace] == [row.mixture for row in soup.trace]
    assert loaded.candidates == tuple(Ingredients.load(recorded))  # the initialization is none of them
    assert loaded.options["alphas"] == alphas
    assert loaded.options["endpoint"]["recipe"] == type(endpoint).__name__


def test_where_the_initialization_comes_from(recorded: Path, tmp_path: Path) -> None:
    found = Ingredients.load(recorded)
    (theta0,) = (recorded / "initializations").iterdir()
    assert found.initialization.path == theta0
    assert Ingredients.load([str(one.path) for one in found]).initialization.path == theta0
    assert found[:2].initialization.path == theta0
    assert found.initialization not in found
    other = Classifier()
    nn.init.zeros_(other.net[0].weight)
    torch.save({"state_dict": other.state_dict()}, tmp_path / "zero.ckpt")
    soup = trainer(SoupTrainer).cook(
        Classifier(),
        datamodule=Blobs(),
        ingredients=recorded,
        initialization=tmp_path / "zero.ckpt",
        recipe=WiseFT(alphas=[0.0]),
        output=tmp_path / "s.ckpt",
    )
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in soup.state_dict().items())
    with pytest.raises(FileNotFoundError, match=r"no initialization at .*nowhere\.ckpt"):
        Ingredients.load(recorded, tmp_path / "nowhere.ckpt")


def test_an_initialization_that_is_not_known_is_an_error(recorded: Path, tmp_path: Path) -> None:
    plain = []
    for number, ingredient in enumerate(Ingredients.load(recorded)):
        plain.append(str(tmp_path / f"{number}.ckpt"))
        torch.save(read_checkpoint(ingredient.path), plain[-1])
    with pytest.raises(ValueError, match=r"was not recorded\. Give a checkpoint"):
        _ = Ingredients.load(plain).initialization
    record(tmp_path / "two", [0.1])
    record(tmp_path / "two", [0.2], seed=5)
    with pytest.raises(ValueError, match="start from 2 different initializations"):
        _ = Ingredients.load(tmp_path / "two").initialization
    record(tmp_path / "gone", [0.1])
    for path in (tmp_path / "gone" / "initializations").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="initialization of the ingredients is missing"):
        _ = Ingredients.load(tmp_path / "gone").initialization
    for record_path in (tmp_path / "gone").rglob("*.json"):
        assert json.loads(record_path.read_text())["initialization"]


@pytest.mark.parametrize("alphas", [[], [0.1, float("nan")], [float("inf")]])
def test_what_is_refused(alphas: list[float]) -> None:
    with pytest.raises(ValueError, match="`alphas` must be one or more finite numbers, got"):
        WiseFT(alphas=alphas)
