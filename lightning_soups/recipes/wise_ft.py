"""WiSE-FT: back towards the initialization."""

import math
from collections.abc import Sequence
from typing import final

from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.ingredients import Ingredients
from lightning_soups.mixture import Mixture
from lightning_soups.recipes.greedy import GreedySoup
from lightning_soups.recipes.recipe import Recipe
from lightning_soups.score import Score

_PATH = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@final
class WiseFT(Recipe):
    r"""Interpolate between the initialization and a soup, :math:`\theta_0 + \alpha(\theta - \theta_0)`.

    Fine-tuning often loses what the initialization knew about shifted data, and part of the way back regains it. All
    :math:`\alpha` are scored on the held-out data, so the trace holds the whole path, and the best is served; of
    equally good ones the one nearest to 0.5, which the paper recommends where nothing is known about the shift.
    Held-out data that are like the training data say little about a shift: look at the path on shifted data, too
    (``lightning-soup study --study Interpolation``).

    Source: Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022, section 3, arXiv:2109.01903.

    Args:
        endpoint: The recipe whose soup is :math:`\theta`. ``UniformSoup(top_k=1)`` is the best single ingredient.
        alphas: Which :math:`\alpha` to try.

    Raises:
        ValueError: ``alphas`` is empty or holds what is not a finite number.
    """

    def __init__(self, endpoint: Recipe = GreedySoup(), alphas: Sequence[float] = _PATH) -> None:  # noqa: B008
        if not alphas or not all(map(math.isfinite, alphas)):
            raise ValueError(f"`alphas` must be one or more finite numbers, got {list(alphas)}.")
        self._endpoint = endpoint
        self._alphas = tuple(map(float, alphas))

    def cook(self, ingredients: Ingredients, evaluator: Evaluator) -> Mixture:
        """Cook the endpoint, then ask one question for each point of the path."""
        start = Mixture.uniform([ingredients.initialization])
        end = self._endpoint.cook(ingredients, evaluator)
        path = {alpha: start.interpolate(end, alpha) for alpha in self._alphas}
        scores = {alpha: evaluator.score(point, label=f"α = {alpha:g}") for alpha, point in path.items()}

        def merit(alpha: float) -> tuple[Score, float]:
            return scores[alpha], -abs(alpha - 0.5)

        return path[max(self._alphas, key=merit)]
