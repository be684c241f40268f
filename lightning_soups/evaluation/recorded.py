"""What was recorded with ingredients, and whether it can stand for an evaluation."""

import math
from collections.abc import Iterable, Mapping

from lightning_soups.ingredient import Ingredient
from lightning_soups.score import Mode, Score


def exact_scores(ingredients: Iterable[Ingredient], monitor: str, mode: Mode | None) -> dict[Ingredient, Score] | None:
    """The recorded scores of all ingredients, if each has one of this monitor over the whole held-out data.

    Args:
        ingredients: At least one.
        monitor: The metric.
        mode: Its direction.
    """
    known = list(ingredients)
    recorded = {one: one.score for one in known if one.score is not None and one.exact and one.monitor == monitor}
    if len(recorded) < len(known) or {score.mode for score in recorded.values()} != {mode}:
        return None
    return recorded


def best_recorded_first(ingredients: Iterable[Ingredient], monitor: str, mode: Mode) -> list[Ingredient]:
    """Sort by the recorded values of a metric, however exact they are.

    Raises:
        ValueError: An ingredient has no record of it.
    """
    known = list(ingredients)
    if unrecorded := [one.name for one in known if monitor not in one.metrics]:
        raise ValueError(f"There is no recorded {monitor!r} of these ingredients: {unrecorded}.")
    return sorted(known, key=lambda one: Score(one.metrics[monitor], mode), reverse=True)


def agree(recorded: Mapping[str, float], measured: Mapping[str, float]) -> bool:
    """Whether every metric that was recorded and measured has the same value, up to the rounding of a sum."""
    pairs = [(recorded[name], value) for name, value in measured.items() if name in recorded]
    return all(math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) or (math.isnan(a) and math.isnan(b)) for a, b in pairs)
