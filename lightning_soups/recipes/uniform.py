"""The uniform soup."""

from typing import final

from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.ingredients import Ingredients
from lightning_soups.mixture import Mixture
from lightning_soups.recipes.recipe import Recipe, at_least_one


@final
class UniformSoup(Recipe):
    r"""Average all ingredients, or the best of them, :math:`\theta = \frac{1}{k} \sum_i \theta_i`.

    Averaging all needs no held-out data to choose, and is not protected from ingredients that lie in another basin.
    With ``top_k`` the ingredients are ranked by held-out score first; ``top_k=1`` is the best single ingredient.

    Source: Wortsman et al., Model soups, ICML 2022, section 2, arXiv:2203.05482.

    Args:
        top_k: How many of the best ingredients to average; None for all.

    Raises:
        ValueError: ``top_k`` is less than 1.
    """

    def __init__(self, top_k: int | None = None) -> None:
        self._top_k = None if top_k is None else at_least_one(top_k, "top_k")

    def cook(self, ingredients: Ingredients, evaluator: Evaluator) -> Mixture:
        """Mix with equal coefficients."""
        if self._top_k is None:
            return Mixture.uniform(ingredients)
        return Mixture.uniform(evaluator.rank(ingredients)[: self._top_k])
