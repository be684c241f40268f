"""Names of models: in a study's options ``initialization``, ranks such as ``rank-1``, or runs; in tables runs."""

from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.ingredient import INITIALIZATION
from lightning_soups.ingredients import Ingredients
from lightning_soups.mixture import Mixture

HELP = "`initialization`, a rank by held-out score (`rank-1` is the best single ingredient), or the name of a run"


def find_model(name: str, ingredients: Ingredients, evaluator: Evaluator) -> Mixture:
    """The model that a user names.

    Args:
        name: ``initialization``, ``rank-1`` for the best single ingredient, ``rank-2`` for the next, or a run's or an
            ingredient's name.
        ingredients: To choose from.
        evaluator: Ranks them, when asked for a rank.

    Raises:
        ValueError: There is no such model, or a run recorded several.
    """
    if name == INITIALIZATION:
        return Mixture.uniform([ingredients.initialization])
    rank = name.removeprefix("rank-")
    if rank != name and rank.isdigit() and 1 <= int(rank) <= len(ingredients):
        return Mixture.uniform([evaluator.rank(ingredients)[int(rank) - 1]])
    found = [one for one in ingredients if name in (one.name, one.run)]
    if len(found) != 1:
        known = sorted(one.name for one in (found or ingredients))
        raise ValueError(
            f"{name!r} names {len(found)} ingredients and must name one: give {HELP}. Ingredients: {known}."
        )
    return Mixture.uniform(found)
