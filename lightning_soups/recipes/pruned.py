"""The pruned soup."""

from typing import final

from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.ingredients import Ingredients
from lightning_soups.mixture import Mixture
from lightning_soups.recipes.recipe import Recipe, at_least_one


@final
class PrunedSoup(Recipe):
    """Start from the average of all ingredients and drop members while the held-out score does not fall.

    The members are tried worst first by held-out score; each one is dropped for good if the average of the others
    scores at least as well. So the soup is never worse on the held-out data than the uniform soup; it may be worse than
    the best single ingredient.

    Source: Dansereau et al., Model soups to increase inference without increasing compute time, arXiv:2301.10092.

    Args:
        sweeps: How many times to go through the members at most; it ends before when nothing was dropped.

    Raises:
        ValueError: ``sweeps`` is less than 1.
    """

    tests_each = True

    def __init__(self, sweeps: int = 1) -> None:
        self._sweeps = at_least_one(sweeps, "sweeps")

    def cook(self, ingredients: Ingredients, evaluator: Evaluator) -> Mixture:
        """Follow the recipe: one question for each ingredient and one for each member to drop."""
        worst_first = evaluator.rank(ingredients)[::-1]
        soup = Mixture.uniform(ingredients)
        best = evaluator.score(soup, label=f"all {len(soup)}")
        for _ in range(self._sweeps):
            members = len(soup)
            for ingredient in worst_first:
                if ingredient not in soup or len(soup) == 1:
                    continue
                candidate = soup.remove(ingredient)
                score = evaluator.score(candidate, beat=best, label=f"{len(soup)} kept − {ingredient.run}")
                if score >= best:
                    soup, best = candidate, score
            if len(soup) == members:
                break
        return soup
