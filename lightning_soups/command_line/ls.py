"""The ``ls`` subcommand."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from lightning_soups.command_line.showing import show_left_out
from lightning_soups.ingredient import Ingredient
from lightning_soups.ingredients import Ingredients
from lightning_soups.listing import list_ingredients
from lightning_soups.tables import cell, ingredients_table, make_console
from lightning_soups.where import Condition

HELP = "List ingredients: filter, sort, print as a table or as JSON."


def add_ls_arguments(parser: ArgumentParser) -> None:
    """Add what ``ls`` takes; neither config of a training nor model is needed."""
    parser.add_argument(
        "paths",
        nargs="*",
        metavar="DIR",
        help="A soup directory that SoupCallback wrote to, a glob such as 'runs/*/best.ckpt', or several checkpoints.",
    )
    parser.add_argument("--ingredients", type=str | list[str], default=None, help="The same, spelled as cook has it.")
    parser.add_function_arguments(list_ingredients, as_group=False, skip={"ingredients", "reverse"})
    parser.add_argument("--reverse", action="store_true", help="Sort the other way round.")
    parser.add_argument("--json", action="store_true", help="Print a JSON array, one object an ingredient.")


def run_ls(options: Namespace) -> None:
    """Print ingredients.

    Raises:
        ValueError: No ingredients were named, or twice; else see ``list_ingredients``.
        FileNotFoundError: A listed path does not exist.
    """
    if bool(options.paths) == bool(options.ingredients):
        raise ValueError("Say once where the ingredients are: `lightning-soup ls soups/mine`.")
    source = options.ingredients or (options.paths[0] if len(options.paths) == 1 else options.paths)
    found, listed = list_ingredients(source, options.where, options.sort, options.reverse, options.top)
    if options.json:
        _print_json(listed)
    else:
        _print_table(found, listed, [options.sort, options.where])


def _print_table(found: Ingredients, listed: Sequence[Ingredient], mentioned: Sequence[str | None]) -> None:
    """Metrics that ``mentioned`` expressions name get a column of their own."""
    names = [name for text in mentioned if text is not None for name in Condition(text).names]
    names = [name.removeprefix("metrics.") for name in names]
    metrics = [name for name in dict.fromkeys(names) if any(name in one.metrics for one in listed)]
    which = f"{len(found)}" if len(listed) == len(found) else f"{len(listed)} of {len(found)}"
    console = make_console()
    console.print(cell(f"{which} ingredients in {found.directory}"), style="bold", soft_wrap=True)
    if listed:
        console.print(ingredients_table(listed, "", metrics=metrics))
    show_left_out(found.left_out)


def _print_json(listed: Sequence[Ingredient]) -> None:
    """Numbers that JSON does not have are null."""
    objects = [
        {
            "path": str(one.path),
            "run": one.run,
            "epoch": one.epoch,
            "step": one.step,
            "monitor": one.monitor,
            "mode": one.mode,
            "metrics": one.metrics,
            "hyperparameters": one.hyperparameters,
            "initialization": one.initialization,
        }
        for one in listed
    ]
    print(json.dumps(_finite(objects), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
