"""Model Stock: towards the initialization, as far as the ingredients' directions say."""

from typing import final

import torch
from torch import Tensor

from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.ingredient import Ingredient
from lightning_soups.ingredients import Ingredients
from lightning_soups.mixture import Mixture
from lightning_soups.recipes.recipe import Recipe
from lightning_soups.weights import cosines


@final
class ModelStock(Recipe):
    r"""Move from the initialization towards the average, layer by layer, as far as directions agree.

    With :math:`\bar\theta` the average of the N ingredients and :math:`\cos` the mean cosine between the ways
    :math:`\theta_i - \theta_0` that two of them went, each parameter tensor becomes

    .. math:: t\,\bar\theta + (1 - t)\,\theta_0, \qquad t = \frac{N \cos}{1 + (N - 1) \cos}.

    Two ingredients are enough, and no held-out data is needed to choose. A negative mean cosine counts as 0 (the
    formula has a pole at :math:`-1/(N-1)`), so t stays within 0 and 1. Buffers, and tensors that never changed, get
    the t of all parameters together.

    Source: Jang et al., Model Stock, ECCV 2024, equation for N models in section 4, arXiv:2403.19522. As there, cosines
    are averaged, not angles. Merging now and then during training, which the paper adds, is not part of this.
    """

    def cook(self, ingredients: Ingredients, evaluator: Evaluator) -> Mixture:
        """Measure directions; no question is asked."""
        origin = ingredients.initialization
        moved = [ingredient for ingredient in ingredients if ingredient != origin]  # which has no direction
        if len(moved) < 2:
            raise ValueError(
                f"Model Stock needs at least two ingredients to compare their directions, got {len(moved)}."
            )
        products = evaluator.inner_products(moved, origin)
        general = ratio(torch.stack(list(products.values())).sum(dim=0))
        if general is None:
            raise ValueError(
                "All ingredients have the weights that they started from: there is no direction to measure."
            )

        start, end = Mixture.uniform([origin]), Mixture.uniform(moved)
        shares = {name: ratio(gram) for name, gram in products.items()}
        points = {name: start.interpolate(end, share) for name, share in shares.items() if share is not None}

        def coefficients(point: Mixture) -> dict[Ingredient, float]:
            return {member: point.coefficients.get(member, 0.0) for member in (origin, *moved)}

        layers = {name: coefficients(point) for name, point in points.items()}
        return Mixture(coefficients(start.interpolate(end, general)), layers).tie(evaluator.tied_parameters())


def ratio(gram: Tensor) -> float | None:
    r"""How far to go from the initialization to the average, :math:`t`.

    Args:
        gram: Inner products of :math:`\theta_i - \theta_0`, float64, shape (N, N).

    Returns:
        A number from 0 to 1; None when no two ingredients have gone anywhere.
    """
    count = len(gram)
    pairs = torch.triu_indices(count, count, offset=1)
    between = cosines(gram)[pairs[0], pairs[1]]
    between = between[~between.isnan()]
    if not len(between):
        return None
    cosine = max(0.0, float(between.mean()))
    return count * cosine / (1 + (count - 1) * cosine)
