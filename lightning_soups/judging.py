"""What records say against ingredients: scores that are no numbers, other monitors, other initializations."""

import math
from collections import Counter
from collections.abc import Iterable

from lightning_soups.bad_ingredients import LeftOut
from lightning_soups.ingredient import Ingredient
from lightning_soups.ingredients import Ingredients
from lightning_soups.opening import open_checkpoint
from lightning_soups.weights import fingerprint


def bad_scores(ingredients: Iterable[Ingredient], monitor: str, finite: bool = True) -> list[LeftOut]:
    """Find ingredients whose record lacks the value that they were recorded for, or has one that is no finite number.

    Args:
        ingredients: Any; those without a record have nothing to be judged by.
        monitor: The metric that is cooked by.
        finite: Whether values have to be finite.
    """
    bad = []
    for one in ingredients:
        reason = None
        if one.monitor is not None and one.monitor not in one.metrics:
            reason = f"its record has no value of {one.monitor!r}, the metric that it was recorded for"
        elif finite:
            for name in dict.fromkeys(filter(None, (one.monitor, monitor))):
                if not math.isfinite(value := one.metrics.get(name, 0.0)):
                    reason = f"its recorded {name!r} is {value}: it diverged"
        if reason is not None:
            bad.append(LeftOut(one.path, one.run, reason))
    return bad


def other_monitors(ingredients: Iterable[Ingredient], monitor: str) -> list[LeftOut]:
    """Find ingredients that were recorded for another metric than most, which is the one that is cooked by."""
    return [
        LeftOut(one.path, one.run, f"it was recorded by {one.monitor!r}, and most others by {monitor!r}")
        for one in ingredients
        if one.monitor not in (None, monitor)
    ]


def other_initializations(ingredients: Ingredients) -> list[LeftOut]:
    """Find ingredients that started from other weights than most, as far as that was recorded.

    A given initialization decides, when it is one of those recorded; else the one that most started from, and of
    equally many the one of the best recorded score.

    Raises:
        ValueError: The given initialization cannot be read.
    """
    counts = Counter(one.initialization for one in ingredients if one.initialization is not None)
    if len(counts) < 2:
        return []
    given = ingredients.given_initialization
    found = None if given is None else fingerprint(open_checkpoint(given).content["state_dict"])
    if found is None or found not in counts:
        most = max(counts.values())
        best_first = (one.initialization for one in ingredients.best_first())
        found = next(one for one in best_first if one is not None and counts[one] == most)
    return [
        LeftOut(
            one.path,
            one.run,
            f"it started from other weights, {one.initialization}, than {counts[found]} others, {found}; their average"
            " is seldom any good",
        )
        for one in ingredients
        if one.initialization not in (None, found)
    ]
