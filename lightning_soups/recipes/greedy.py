"""The greedy soup."""

from typing import final

from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.ingredients import Ingredients
from lightning_soups.mixture import Mixture
from lightning_soups.recipes.recipe import Recipe


@final
class GreedySoup(Recipe):
    """Add ingredients, best first, and keep each one only if the soup's held-out score does not drop.

    The ingredients are sorted by held-out score. The soup starts as the best single one; each next ingredient joins
    the uniform average if the new average scores at least as well as the current soup. So the soup is never worse on
    the held-out data than the best single ingredient, and it leaves out ingredients that lie in another basin.

    Source: Wortsman et al., Model soups, ICML 2022, recipe 1, arXiv:2203.05482.
    """

    def cook(self, ingredients: Ingredients, evaluator: Evaluator) -> Mixture:
        """Follow the recipe: one question for each ingredient and one for each candidate soup."""
        best_first = evaluator.rank(ingredients)
        soup = Mixture.uniform(best_first[:1])
        best = evaluator.score(soup)
        for ingredient in best_first[1:]:
            candidate = soup.add(ingredient)
            score = evaluator.score(candidate, beat=best)
            if score >= best:
                soup, best = candidate, score
        return soup
