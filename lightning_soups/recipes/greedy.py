"""The greedy soup."""

import math
import random
from typing import Literal, final, get_args

from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.ingredient import Ingredient
from lightning_soups.ingredients import Ingredients
from lightning_soups.mixture import Mixture
from lightning_soups.recipes.recipe import Recipe, at_least_one
from lightning_soups.score import Score

Order = Literal["held-out", "random", "recorded"]


@final
class GreedySoup(Recipe):
    """Add ingredients, best first, and keep each one only if the soup's held-out score does not drop.

    The ingredients are sorted by held-out score. The soup starts as the best single one; each next ingredient joins
    the uniform average if the new average scores at least as well as the current soup. So the soup is never worse on
    the held-out data than the best single ingredient, and it leaves out ingredients that lie in another basin. That is
    the published recipe, which the defaults follow.

    Source: Wortsman et al., Model soups, ICML 2022, recipe 1, arXiv:2203.05482; random order: its appendix.

    Args:
        strict: Keep an ingredient only if the score rises; by default one that leaves it as it is joins, too.
        min_delta: How much the score has to rise, in the units of the monitored metric.
        order: Which ingredients come first: ``held-out``, the best by evaluation (or by recorded scores where those
            are exact); ``recorded``, the best by recorded scores, whatever they are; ``random``, which starts from any
            ingredient, so that the soup may be worse than the best single one.
        seed: Decides the random order.
        sweeps: How many times to go through the candidates; later times try those again that were left out.
        max_members: How many ingredients the soup may have; None for any number.

    Raises:
        ValueError: ``min_delta`` is negative or not finite, ``order`` is unknown, or a number is less than 1.
    """

    tests_each = True

    def __init__(
        self,
        strict: bool = False,
        min_delta: float = 0.0,
        order: Order = "held-out",
        seed: int = 0,
        sweeps: int = 1,
        max_members: int | None = None,
    ) -> None:
        if not (math.isfinite(min_delta) and min_delta >= 0):
            raise ValueError(f"`min_delta` must be 0 or a positive number, got {min_delta}.")
        if order not in get_args(Order):
            raise ValueError(f"`order` must be one of {list(get_args(Order))}, got {order!r}.")
        self._strict = strict
        self._min_delta = float(min_delta)
        self._order = order
        self._seed = seed
        self._sweeps = at_least_one(sweeps, "sweeps")
        self._max_members = None if max_members is None else at_least_one(max_members, "max_members")

    def cook(self, ingredients: Ingredients, evaluator: Evaluator) -> Mixture:
        """Follow the recipe: one question for each ingredient and one for each candidate soup."""
        first, *candidates = self._ordered(ingredients, evaluator)
        soup = Mixture.uniform([first])
        best = evaluator.score(soup)
        for _ in range(self._sweeps):
            left_out: list[Ingredient] = []
            for ingredient in candidates:
                if len(soup) == self._max_members:
                    return soup
                candidate, beat = soup.add(ingredient), self._to_beat(best)
                score = evaluator.score(candidate, beat=beat)
                if score >= beat:
                    soup, best = candidate, score
                else:
                    left_out.append(ingredient)
            if len(left_out) == len(candidates):
                break
            candidates = left_out
        return soup

    def _ordered(self, ingredients: Ingredients, evaluator: Evaluator) -> list[Ingredient]:
        if self._order != "random":
            return evaluator.rank(ingredients, as_recorded=self._order == "recorded")
        shuffled = list(ingredients)
        random.Random(self._seed).shuffle(shuffled)
        return shuffled

    def _to_beat(self, best: Score) -> Score:
        """The least score that a candidate has to reach."""
        better = math.inf if best.mode == "max" else -math.inf
        value = best.value + math.copysign(self._min_delta, better) if self._min_delta else best.value
        return Score(math.nextafter(value, better) if self._strict else value, best.mode)
