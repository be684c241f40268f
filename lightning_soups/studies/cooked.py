"""What studies compare: the best single ingredient, soups of several recipes, and ensembles."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.ingredients import Ingredients
from lightning_soups.mixture import Mixture
from lightning_soups.recipes import GreedySoup, Recipe

BEST = "best single"
OF_ALL = "ensemble of all"
OF_GREEDY = "ensemble of greedy members"


class Lineup(NamedTuple):
    """Models by what to call them.

    Args:
        models: Of one set of weights each: the best single ingredient, then the soups.
        ensembles: The weights of their members: the ensemble of all ingredients, and that of the greedy soup's.
        held_out: What ``models`` score on the held-out data.
        left_out: Sentences that say which recipe could not be cooked, and why.
    """

    models: dict[str, Mixture]
    ensembles: dict[str, dict[Mixture, float]]
    held_out: dict[str, float]
    left_out: list[str]


def check_recipes(recipes: Sequence[Recipe]) -> tuple[Recipe, ...]:
    """Return ``recipes``, or say what is wrong with them.

    Raises:
        ValueError: There are none, one is listed twice, or one is no recipe.
    """
    if not recipes or not all(isinstance(recipe, Recipe) for recipe in recipes):
        raise ValueError(f"`recipes` must be one or more recipes such as GreedySoup(), got {recipes!r}.")
    names = recipe_names(recipes)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"Each recipe can be listed once; listed more than once with the same options: {twice}.")
    return tuple(recipes)


def recipe_names(recipes: Sequence[Recipe]) -> list[str]:
    """What to call soups: ``greedy soup``, with the options that tell it from others of its kind."""
    names = []
    for recipe in recipes:
        alike = [other.options for other in recipes if type(other) is type(recipe)]
        told = [f"{key}={value}" for key, value in recipe.options.items() if any(one[key] != value for one in alike)]
        kind = re.sub(r"(?<=[a-z])Soup$", " soup", recipe.name)
        name = kind.lower() if kind.endswith(" soup") else kind
        names.append(f"{name} ({', '.join(told)})" if told else name)
    return names


def line_up(recipes: Sequence[Recipe], ingredients: Ingredients, evaluator: Evaluator) -> Lineup:
    """Cook everything on the held-out data.

    Args:
        recipes: What to cook; one that cannot be cooked is left out.
        ingredients: At least one.
        evaluator: Answers what mixtures score.
    """
    models = {BEST: Mixture.uniform(evaluator.rank(ingredients)[:1])}
    ensembles = {OF_ALL: ensemble_of(ingredients)}
    left_out = []
    for name, recipe in zip(recipe_names(recipes), recipes, strict=True):
        try:
            models[name] = recipe.cook(ingredients, evaluator)
        except (ValueError, MisconfigurationException) as error:  # the latter is an evaluator's way to say no
            left_out.append(f"Left out, because it could not be cooked: the {name}. {error}")
            continue
        if isinstance(recipe, GreedySoup) and OF_GREEDY not in ensembles:
            ensembles[OF_GREEDY] = ensemble_of(models[name])
    held_out = {name: float(evaluator.score(mixture, label=name)) for name, mixture in models.items()}
    return Lineup(models, ensembles, held_out, left_out)


def ensemble_of(ingredients: Ingredients | Mixture) -> dict[Mixture, float]:
    """Equal weights for the outputs of each."""
    return {Mixture.uniform([one]): 1 / len(ingredients) for one in ingredients}
