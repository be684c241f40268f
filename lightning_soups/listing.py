"""Ingredients as a list: filtered and sorted."""

import math
from typing import Any

from lightning_soups.bad_ingredients import settle
from lightning_soups.ingredient import Ingredient
from lightning_soups.ingredients import Ingredients, find_ingredients
from lightning_soups.where import Condition


def list_ingredients(
    ingredients: str | list[str],
    where: str | None = None,
    sort: str | None = None,
    reverse: bool = False,
    top: int | None = None,
) -> tuple[Ingredients, list[Ingredient]]:
    """Find, filter and sort ingredients.

    Args:
        ingredients: Where they are: a soup directory that ``SoupCallback`` wrote to, a glob such as
            ``runs/*/best.ckpt``, or several checkpoints.
        where: A condition, to list only the ingredients of which it is true, for example
            ``'val_acc > 0.9 and lr < 1e-3'``. It can name ``run``, ``epoch``, ``step``, ``path``, ``monitor``,
            ``mode``, ``initialization``, every metric and every hyperparameter (``metrics.NAME`` and
            ``hyperparameters.NAME`` where a name is both), in backticks when it has other characters than letters,
            digits, ``_`` and ``.``: '`test_acc/rotated` > 0.5'. Put it in single quotes. Comparisons, ``in``,
            ``is None``, ``and``, ``or``, ``not``, parentheses and arithmetic work as in Python. It is not true of an
            ingredient that lacks what it depends on.
        sort: What to sort by: a name, or an expression such as ``train_loss - val_loss``. The recorded monitor is
            sorted best first, anything else smallest first; ingredients that lack it come last. By default the
            recorded score, best first.
        reverse: Whether to sort the other way round.
        top: How many to list at most.

    Returns:
        All that were found, with those that cannot be read in ``left_out``, and those to list.

    Raises:
        ValueError: There are none, none can be read, ``where`` or ``sort`` cannot be understood or has a name that
            no ingredient knows, or ``top`` is not positive.
    """
    if top is not None and top < 1:
        raise ValueError(f"`top` must be at least 1, got {top}.")
    found = find_ingredients(ingredients)
    if not found:
        settle(found.left_out, "skip", left=0)
    selected = found if where is None else found.where(where)
    if sort is None:
        listed = selected.best_first()
        if reverse:
            listed.reverse()
    else:
        listed = _sorted(found, selected, Condition(sort), reverse)
    return found, listed[:top]


def _sorted(found: Ingredients, selected: Ingredients, key: Condition, reverse: bool) -> list[Ingredient]:
    key.check_names(found)
    values = {ingredient: key.value(ingredient) for ingredient in selected}
    largest_first = {ingredient.mode for ingredient in selected if ingredient.monitor == key.text.strip()} == {"max"}
    known = [ingredient for ingredient in selected if not _lacks(values[ingredient])]
    known.sort(key=lambda ingredient: _comparable(values[ingredient]), reverse=largest_first != reverse)
    return [*known, *(ingredient for ingredient in selected if _lacks(values[ingredient]))]


def _lacks(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _comparable(value: Any) -> tuple[bool, float, str]:
    """Numbers before anything else, which is compared as text."""
    is_number = isinstance(value, (int, float))
    return (not is_number, float(value) if is_number else 0.0, "" if is_number else str(value))
