"""What a recipe can ask: the held-out score of a mixture."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_soups.evaluation.learner import Learner
from lightning_soups.ingredient import Ingredient
from lightning_soups.ingredients import Ingredients
from lightning_soups.mixture import Mixture
from lightning_soups.score import Score


class Evaluator(ABC):
    """Answers a recipe's questions on the held-out data."""

    @abstractmethod
    def score(self, mixture: Mixture, beat: Score | None = None, label: str = "") -> Score:
        """Score a mixture.

        Args:
            mixture: What to evaluate.
            beat: The score that the mixture has to reach to be of interest, when there is one. It marks the answer
                in the trace as accepted or not.
            label: What to call the mixture in the trace, when its members do not say it.

        Returns:
            The monitored metric; compares "better" by its mode. When the mixture provably cannot reach ``beat``, this
            may be a bound instead of the score itself: no better than that, and worse than ``beat``.
        """

    @abstractmethod
    def rank(self, ingredients: Ingredients, as_recorded: bool = False) -> list[Ingredient]:
        """Sort ingredients by their held-out score, best first; ties keep their order, NaN goes last.

        Args:
            ingredients: What to sort.
            as_recorded: Whether to sort by the recorded values of the metric, however exact they are, without
                evaluating anything.

        Raises:
            ValueError: ``as_recorded``, and an ingredient has no record of the metric.
        """

    @abstractmethod
    def metrics(self, mixture: Mixture, label: str = "") -> dict[str, float]:
        """Every metric that is logged when a mixture is validated, over all the held-out data.

        Args:
            mixture: What to evaluate.
            label: See :meth:`score`.
        """

    @abstractmethod
    def inner_products(self, ingredients: Sequence[Ingredient], origin: Ingredient) -> dict[str, Tensor]:
        r"""Measure where ingredients went from an origin, parameter by parameter.

        Args:
            ingredients: N of them.
            origin: Usually ``ingredients.initialization``.

        Returns:
            For each of the module's parameters the inner products of :math:`\theta_i - \theta_0`, float64, shape
            (N, N).
        """

    @abstractmethod
    def tied_parameters(self) -> dict[str, str]:
        """Names of the module's parameters that are another parameter, and the first name of that one."""

    @abstractmethod
    def learner(self, loss: str, batch_size: int, validation_share: float, seed: int) -> Learner:
        """Prepare to learn coefficients: split the held-out data.

        Args:
            loss: The logged number to learn by.
            batch_size: Samples in a step, over all processes.
            validation_share: Share of the samples not to learn on.
            seed: Decides the split.
        """

    @abstractmethod
    def load_state(self, key: str) -> dict[str, Any] | None:
        """What :meth:`save_state` last kept under this key when it was interrupted; None when there is nothing."""

    @abstractmethod
    def save_state(self, key: str, state: dict[str, Any]) -> None:
        """Keep a recipe's progress, so that it can resume after a crash; forgotten when the soup is saved.

        Args:
            key: Tells it from the progress of other recipes; anything that it depends on should be in it.
            state: What JSON holds.
        """
