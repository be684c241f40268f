"""Pairs of ingredients: which to look at, what hyperparameter tells them apart, and how two numbers go together."""

import itertools
import math
import random
import statistics
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from lightning_soups.ingredient import Ingredient
from lightning_soups.ingredients import Ingredients
from lightning_soups.score import Mode

NOT_RECORDED = "not recorded"
_DIFFERENT = "different"
_ROUNDING = 1e-6  # relative; Lightning logs in float32
_FEWEST = 3  # two points always lie on a line

Pair = tuple[Ingredient, Ingredient]
Point = tuple[float, float]


class Groups(NamedTuple):
    """Pairs, grouped by a hyperparameter.

    Attributes:
        title: What the groups are of.
        labels: The group of each pair.
        larger: The larger of the two values of each pair; None where that is not known, or no number.
        order: The groups in the order to show, each with at least one pair.
    """

    title: str
    labels: list[str]
    larger: list[float | None]
    order: list[str]


def choose_pairs(ingredients: Ingredients, max_pairs: int, seed: int) -> list[Pair]:
    """All pairs of different ingredients, or as many of them as are wanted, at random.

    Args:
        ingredients: N of them.
        max_pairs: How many pairs at most.
        seed: Decides which, when there are more.

    Raises:
        ValueError: There are less than two ingredients.
    """
    if len(ingredients) < 2:
        raise ValueError(f"A study of pairs needs at least two ingredients, got {len(ingredients)}.")
    pairs = list(itertools.combinations(ingredients, 2))
    if len(pairs) <= max_pairs:
        return pairs
    chosen = random.Random(seed).sample(range(len(pairs)), max_pairs)
    return [pairs[index] for index in sorted(chosen)]


def group_pairs(pairs: Sequence[Pair], hyperparameter: str, count: int, by_value: bool) -> Groups:
    """Group pairs by a recorded hyperparameter.

    Of numbers the larger one of a pair counts: one large learning rate is enough to leave the common basin. Up to
    ``count`` different numbers are groups of their own; more are divided at quantiles. Anything else is the same in
    both runs, or different.

    Args:
        pairs: What to group.
        hyperparameter: Its name.
        count: How many groups of numbers.
        by_value: Whether pairs with the same value that is no number are grouped by that value.
    """
    values: list[tuple[Any, ...]] = [tuple(one.hyperparameters.get(hyperparameter) for one in pair) for pair in pairs]
    known = [value for both in values if None not in both for value in both]
    if known and all(map(_is_number, known)):
        larger = [None if None in both else float(max(both)) for both in values]
        return Groups(f"larger {hyperparameter} of the pair", *_quantiles(larger, count))

    def label(both: tuple[Any, ...]) -> str:
        if None in both:
            return NOT_RECORDED
        if both[0] != both[1]:
            return _DIFFERENT
        return str(both[0]) if by_value else "same"

    labels = list(map(label, values))
    order = sorted(set(labels), key=lambda name: (name == NOT_RECORDED, name == _DIFFERENT, name))
    return Groups(f"{hyperparameter} of the pair", labels, [None] * len(labels), order)


def not_recorded(pairs: Sequence[Pair], hyperparameter: str) -> list[str]:
    """A sentence for the reader if no pair has the hyperparameter; else nothing."""
    if any(hyperparameter in one.hyperparameters for pair in pairs for one in pair):
        return []
    known = sorted({name for pair in pairs for one in pair for name in one.hyperparameters})
    return [f"{hyperparameter!r} was not recorded, so pairs are not told apart by it. Recorded were: {known}."]


def advantage(first: float, second: float, mode: Mode) -> float:
    """How much better the first of two values of a metric is; 0 where only float32 rounding tells them apart."""
    if math.isclose(first, second, rel_tol=_ROUNDING, abs_tol=_ROUNDING**2):
        return 0.0
    return first - second if mode == "max" else second - first


def correlation(points: Sequence[Point]) -> float:
    """Pearson's correlation coefficient, from -1 to 1; NaN of less than three points, or where one never changes."""
    finite = _finite(points)
    if len(finite) < _FEWEST or any(len(set(column)) == 1 for column in zip(*finite, strict=True)):
        return math.nan
    return statistics.correlation(*zip(*finite, strict=True))


def rank_correlation(points: Sequence[Point]) -> float:
    """Spearman's rank correlation coefficient, from -1 to 1: Pearson's of the ranks, equal numbers sharing theirs.

    Source: Spearman, The proof and measurement of association between two things, The American Journal of Psychology
    15(1), 1904. NaN where :func:`correlation` is.
    """
    columns = map(_ranks, zip(*_finite(points), strict=True))
    return correlation(list(zip(*columns, strict=True)))


def by_group(points: Mapping[str, Sequence[Point]], coefficient: Callable[[Sequence[Point]], float]) -> str:
    """The coefficient of correlation of each group and how many pairs it has, in words."""
    return ", ".join(
        f"{group}: {shown(coefficient(within))} ({len(within)} pair{'s' * (len(within) != 1)})"
        for group, within in points.items()
    )


def shown(coefficient: float) -> str:
    """Two digits of a coefficient."""
    return "unknown" if math.isnan(coefficient) else f"{coefficient:.2f}"


def _quantiles(larger: list[float | None], count: int) -> tuple[list[str], list[float | None], list[str]]:
    numbers = sorted(value for value in larger if value is not None)
    edges = sorted(set(numbers))[:-1]
    if len(edges) >= count:
        edges = statistics.quantiles(numbers, n=count, method="inclusive") if count > 1 else []
    members: dict[int, list[float]] = {}
    for value in numbers:
        members.setdefault(bisect_left(edges, value), []).append(value)
    names = {part: _range(within[0], within[-1]) for part, within in members.items()}
    labels = [NOT_RECORDED if value is None else names[bisect_left(edges, value)] for value in larger]
    return labels, larger, [*dict.fromkeys(names.values()), *([NOT_RECORDED] if None in larger else [])]


def _range(low: float, high: float) -> str:
    return f"{low:.3g}" if low == high else f"{low:.3g}–{high:.3g}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _finite(points: Sequence[Point]) -> list[Point]:
    return [point for point in points if all(map(math.isfinite, point))]


def _ranks(values: Sequence[float]) -> list[float]:
    places: Mapping[float, list[int]] = {value: [] for value in values}
    for place, value in enumerate(sorted(values), start=1):
        places[value].append(place)
    return [statistics.fmean(places[value]) for value in values]
