"""What a recipe can ask: the held-out score of a mixture."""

from abc import ABC, abstractmethod

from lightning_soups.ingredients import Ingredient, Ingredients
from lightning_soups.mixture import Mixture
from lightning_soups.score import Score


class Evaluator(ABC):
    """Answers a recipe's questions on the held-out data."""

    @abstractmethod
    def score(self, mixture: Mixture, beat: Score | None = None) -> Score:
        """Score a mixture.

        Args:
            mixture: What to evaluate.
            beat: The score that the mixture has to reach to be of interest, when there is one. It marks the answer
                in the trace as accepted or not.

        Returns:
            The monitored metric; compares "better" by its mode. When the mixture provably cannot reach ``beat``, this
            may be a bound instead of the score itself: no better than that, and worse than ``beat``.
        """

    @abstractmethod
    def rank(self, ingredients: Ingredients) -> list[Ingredient]:
        """Sort ingredients by their held-out score, best first; ties keep their order, NaN goes last."""
