"""The uniform soup."""

from typing import final

from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.ingredients import Ingredients
from lightning_soups.mixture import Mixture
from lightning_soups.recipes.recipe import Recipe


@final
class UniformSoup(Recipe):
    r"""Average all ingredients, :math:`\theta = \frac{1}{N} \sum_i \theta_i`.

    It needs no held-out data to choose, and is not protected from ingredients that lie in another basin.

    Source: Wortsman et al., Model soups, ICML 2022, section 2, arXiv:2203.05482.
    """

    def cook(self, ingredients: Ingredients, evaluator: Evaluator) -> Mixture:
        """Mix all ingredients with equal coefficients."""
        return Mixture.uniform(ingredients)
