"""A thousand ingredients: what one question costs must not grow with the square of its members."""

import sys
from pathlib import Path

import pytest
import torch

from lightning_soups import Ingredient, Ingredients, Mixture, Soup, SoupTrainer
from lightning_soups.score import Score
from lightning_soups.trace import Question
from lightning_soups.weights import average_checkpoints
from tests.helpers import Blobs, Classifier, trainer

COUNT = 1000


class Indifferent(Classifier):
    """Every mixture is as good as every other, so a greedy soup takes all."""

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("score", torch.tensor(1.0))


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("thousand")
    weights = Classifier().state_dict()
    for index in range(COUNT):
        bias = torch.full((3,), float(index))
        torch.save({**weights, "net.2.bias": bias}, directory / f"{index:04d}.pt")
    return directory


def test_averaging_them_keeps_no_file_open(thousand: Path) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    try:
        mean = average_checkpoints(sorted(thousand.glob("*.pt")))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert mean["net.2.bias"].tolist() == [(COUNT - 1) / 2] * 3


def test_a_greedy_soup_of_many(thousand: Path) -> None:
    """All of a tenth of them join; no file stays open."""
    psutil = pytest.importorskip("psutil")
    paths = sorted(thousand.glob("*.pt"))[:100]
    process = psutil.Process()
    files = len(process.open_files())
    soup = trainer(SoupTrainer).cook(
        Indifferent(),
        datamodule=Blobs(held_out=10),
        ingredients=paths,
        monitor="score",
        mode="max",
        output=thousand / "soups" / "s.ckpt",
    )
    assert len(soup.ingredients) == 100
    assert len(process.open_files()) <= files
    assert Soup.load(soup.path).trace[-1].mixture == soup.mixture


class Counted(type(Path())):
    """A path that counts how often it is compared."""

    comparisons = 0

    def __eq__(self, other: object) -> bool:
        Counted.comparisons += 1
        return super().__eq__(other)

    def __hash__(self) -> int:
        return super().__hash__()


def test_mixtures_and_look_ups_do_not_compare_each_with_each() -> None:
    ingredients = Ingredients(Ingredient(Counted(f"/runs/{index}.ckpt"), str(index)) for index in range(COUNT))
    soup = Mixture.uniform(ingredients[:-1])
    Counted.comparisons = 0
    whole = soup.add(ingredients[-1])
    assert all(member in ingredients for member in whole)
    assert Counted.comparisons < 20 * COUNT
    with pytest.raises(ValueError, match="listed more than once"):
        Mixture.uniform([*ingredients, ingredients[0]])


def test_a_trace_of_many_questions_is_small(tmp_path: Path) -> None:
    """The members of a greedy soup's questions alone are half the square of their number."""
    ingredients = Ingredients(Ingredient(Path(f"/runs/{index}.ckpt"), str(index)) for index in range(200))
    mixtures = [Mixture.uniform(ingredients[:count]) for count in range(1, 201)]
    trace = [Question(mixture, Score(1.0, "max"), True, 1, 1, 0.1, False) for mixture in mixtures]
    torch.save({"w": torch.ones(1)}, tmp_path / "saved.pt")
    soup = Soup(
        mixtures[-1], Score(1.0, "max"), monitor="m", metrics={}, trace=trace, recipe="R", candidates=ingredients
    )
    plain = soup._provenance()
    assert sum(len(row["mixture"]["coefficients"]) for row in plain["trace"]) == 0
    assert len(plain["mixture"]["coefficients"]) == 200
    assert sys.getsizeof(repr(plain["trace"])) < 200_000
