"""An evaluator that answers from a table: recipes can be tested without a trainer."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_soups import Ingredient, Ingredients, Mixture
from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.evaluation.learner import Learner
from lightning_soups.score import Mode, Score


def ingredients(scores: Sequence[float | None], mode: Mode = "max") -> Ingredients:
    """One ingredient per recorded score, named a, b, c, …"""
    return Ingredients(
        Ingredient(
            Path(f"soups/runs/{chr(97 + number)}/x.ckpt"),
            chr(97 + number),
            metrics={} if score is None else {"m": score},
            monitor=None if score is None else "m",
            mode=None if score is None else mode,
        )
        for number, score in enumerate(scores)
    )


def names(mixture: Mixture) -> str:
    """The members of a mixture in the order in which they joined, ``"bac"``."""
    return "".join(member.run for member in mixture)


class Table(Evaluator):
    """Scores mixtures by a function of their members' names, sorted."""

    def __init__(self, value: Callable[[str], float], mode: Mode = "max") -> None:
        self.value, self.mode = value, mode
        self.asked: list[str] = []

    def score(self, mixture: Mixture, beat: Score | None = None, label: str = "") -> Score:
        self.asked.append(names(mixture))
        return Score(self.value("".join(sorted(names(mixture)))), self.mode)

    def rank(self, ingredients: Ingredients, as_recorded: bool = False) -> list[Ingredient]:
        if as_recorded:
            return ingredients.best_first()
        return sorted(ingredients, key=lambda one: Score(self.value(one.run), self.mode), reverse=True)

    def metrics(self, mixture: Mixture, label: str = "") -> dict[str, float]:
        raise NotImplementedError

    def inner_products(self, ingredients: Sequence[Ingredient], origin: Ingredient) -> dict[str, Tensor]:
        raise NotImplementedError

    def tied_parameters(self) -> dict[str, str]:
        raise NotImplementedError

    def learner(self, loss: str, batch_size: int, validation_share: float, seed: int) -> Learner:
        raise NotImplementedError

    def load_state(self, key: str) -> dict[str, Any] | None:
        raise NotImplementedError

    def save_state(self, key: str, state: dict[str, Any]) -> None:
        raise NotImplementedError
