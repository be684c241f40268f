"""Ingredients: recorded checkpoints and how to find them."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

from upath import UPath

from lightning_soups import records
from lightning_soups.bad_ingredients import LeftOut, OnBadIngredient, reason_of, settle, validate_on_bad_ingredient
from lightning_soups.finding import find
from lightning_soups.ingredient import INITIALIZATION, Ingredient
from lightning_soups.opening import is_folder
from lightning_soups.paths import AnyPath, any_path, common_folder, has_gone
from lightning_soups.weights.formats.file_names import is_plain_name
from lightning_soups.where import Condition

_LISTINGS = 10  # how often a directory is looked at that changes all the time


class Ingredients(Sequence[Ingredient]):
    """A fixed sequence of different ingredients.

    Args:
        ingredients: Any number of them, in the order that breaks ties.
        directory: The folder they belong to, where soups made of them are saved by default.
        initialization: A checkpoint of the weights that all runs started from; None for the recorded one.
        left_out: What was found besides and cannot be used.

    Raises:
        ValueError: An ingredient is listed twice.
    """

    def __init__(
        self,
        ingredients: Iterable[Ingredient],
        directory: str | os.PathLike[str] | AnyPath = ".",
        initialization: str | os.PathLike[str] | AnyPath | None = None,
        left_out: Iterable[LeftOut] = (),
    ) -> None:
        self._ingredients = tuple(ingredients)
        self._known = frozenset(self._ingredients)  # thousands of them are looked up thousands of times
        self.left_out = tuple(left_out)
        self.directory = any_path(directory, "directory")
        self._initialization = None if initialization is None else any_path(initialization, "initialization")
        counts = Counter(str(ingredient.path.resolve()) for ingredient in self._ingredients)
        if twice := sorted({one.name for one in self._ingredients if counts[str(one.path.resolve())] > 1}):
            raise ValueError(f"Each ingredient can be listed once; listed more than once: {twice}.")

    @classmethod
    def load(
        cls,
        source: "str | os.PathLike[str] | AnyPath | Iterable[str | os.PathLike[str] | AnyPath] | Ingredients",
        initialization: str | os.PathLike[str] | AnyPath | None = None,
        on_bad_ingredient: OnBadIngredient = "error",
    ) -> "Ingredients":
        """Find ingredients on disk, in the order of their paths.

        Args:
            source: A directory that :class:`~lightning_soups.SoupCallback` wrote to, a glob such as
                ``"runs/*/best.ckpt"``, one path, or a list of paths (checkpoints of any kind, files and folders, or
                records).
            initialization: A checkpoint of the weights that all runs started from; None for the recorded one.
            on_bad_ingredient: Whether to refuse what cannot be read (``error``), or to leave it out with a warning
                (``skip``). A path that is listed twice, or a link to another, is left out in any case.

        Raises:
            BadIngredientError: Something found is neither a record nor a checkpoint, or a listed path does not exist.
            ValueError: Nothing was found, or the policy is none of the choices.
            FileNotFoundError: ``initialization`` does not exist.
        """
        policy = validate_on_bad_ingredient(on_bad_ingredient)
        found = find_ingredients(source, initialization)
        if not isinstance(source, Ingredients):
            settle(found.left_out, policy, len(found))
        return found

    @property
    def given_initialization(self) -> AnyPath | None:
        """What was said that all runs started from; None when that is left to the records."""
        return self._initialization

    @property
    def initialization(self) -> Ingredient:
        """The weights that all runs started from, θ₀: not an ingredient, but something to mix ingredients with.

        Raises:
            ValueError: It is not known, not on disk, or the runs started from different ones.
        """
        if self._initialization is not None:
            return Ingredient(self._initialization, INITIALIZATION)
        found = sorted({str(ingredient.initialization) for ingredient in self})
        how = "Give a checkpoint of the weights that all runs started from as `initialization`."
        if len(found) != 1:
            raise ValueError(f"The ingredients start from {len(found)} different initializations: {found}. {how}")
        if self[0].initialization is None:
            raise ValueError(f"What the ingredients started from was not recorded. {how}")
        if not is_plain_name(found[0]):  # it becomes one
            raise ValueError(f"The recorded initialization {found[0]!r} is no fingerprint. {how}")
        path: AnyPath = self[0].path.parents[2] / records.INITIALIZATIONS / f"{found[0]}.ckpt"
        if not path.is_file():
            raise ValueError(f"The initialization of the ingredients is missing: {str(path)!r}. {how}")
        return Ingredient(path, INITIALIZATION, initialization=found[0])

    def where(self, condition: str) -> "Ingredients":
        """Select the ingredients of which a condition is true.

        Args:
            condition: For example ``val_acc > 0.9 and lr < 1e-3``; see :class:`~lightning_soups.where.Condition`. An
                ingredient that lacks what the condition depends on is left out.

        Raises:
            ValueError: It is no condition, or it has a name that no ingredient knows.
        """
        asked = Condition(condition)
        asked.check_names(self)
        return Ingredients(filter(asked.holds, self), self.directory, self._initialization, self.left_out)

    def without(self, bad: Iterable[LeftOut]) -> "Ingredients":
        """Leave ingredients out, by their paths, and remember why."""
        more = tuple(bad)
        paths = {str(one.path) for one in more}
        kept = [one for one in self if str(one.path) not in paths]
        return Ingredients(kept, self.directory, self._initialization, (*self.left_out, *more))

    def refuse_to_replace(self, output: AnyPath) -> None:
        """Make sure that an output is none of the ingredients, nor in one.

        Raises:
            ValueError: It is; the message names it.
        """
        place = output.resolve()
        sources = [one.path for one in self] + ([] if self._initialization is None else [self._initialization])
        for source in (path.resolve() for path in sources):
            if source == place or source in place.parents:
                raise ValueError(
                    f"`output` {str(output)!r} would replace the ingredient {str(source)!r}, or a part of it."
                )

    def best_first(self) -> list[Ingredient]:
        """Sort by recorded score; ingredients without a record keep their order at the end.

        Scores of different metrics cannot be compared: then all keep their order.
        """
        recorded = {ingredient: ingredient.score for ingredient in self if ingredient.score is not None}
        if len({(ingredient.monitor, ingredient.mode) for ingredient in recorded}) > 1:
            return list(self)
        others = [ingredient for ingredient in self if ingredient not in recorded]
        return [*sorted(recorded, key=recorded.__getitem__, reverse=True), *others]

    @overload
    def __getitem__(self, index: int) -> Ingredient: ...
    @overload
    def __getitem__(self, index: slice) -> "Ingredients": ...
    def __getitem__(self, index: int | slice) -> "Ingredient | Ingredients":
        if isinstance(index, slice):
            return Ingredients(self._ingredients[index], self.directory, self._initialization, self.left_out)
        return self._ingredients[index]

    def __contains__(self, ingredient: object) -> bool:
        return ingredient in self._known

    def __len__(self) -> int:
        return len(self._ingredients)

    def __iter__(self) -> Iterator[Ingredient]:
        return iter(self._ingredients)

    def __repr__(self) -> str:
        return f"Ingredients({len(self)} from {str(self.directory)!r})"


def find_ingredients(
    source: "str | os.PathLike[str] | AnyPath | Iterable[str | os.PathLike[str] | AnyPath] | Ingredients",
    initialization: str | os.PathLike[str] | AnyPath | None = None,
) -> Ingredients:
    """Find ingredients as :meth:`Ingredients.load` does, and leave it to the caller what to do about bad ones.

    Args:
        source: See :meth:`Ingredients.load`.
        initialization: See :meth:`Ingredients.load`.

    Returns:
        Those that could be read, perhaps none; the others are in ``left_out``.

    Raises:
        ValueError: Nothing was found.
        FileNotFoundError: ``initialization`` does not exist.
    """
    if initialization is not None:
        given = any_path(initialization, "initialization")
        if not (given.is_file() or is_folder(given)):
            raise FileNotFoundError(f"There is no initialization at {str(initialization)!r}.")
    if isinstance(source, Ingredients):
        if initialization is None:
            return source
        return Ingredients(source, source.directory, initialization, source.left_out)
    if isinstance(source, (str, os.PathLike, UPath)):
        for _ in range(_LISTINGS):  # a run that still trains may put a better one in the place of one just listed
            directory, paths = find(str(source))
            found, left_out, gone = _read_all(paths, may_go=True)
            if not gone:
                break
    else:
        if not isinstance(source, Iterable):
            raise ValueError(f"`ingredients` must be a path, a glob or a list of paths, got {source!r}.")
        paths = [any_path(path, "ingredients") for path in source]
        if not paths:
            raise ValueError("The list of ingredients is empty: give at least one checkpoint.")
        directory = common_folder(paths)
        found, left_out, _ = _read_all(paths, may_go=False)
    return Ingredients(found, directory, initialization, left_out)


def _described(path: AnyPath) -> Ingredient:
    return Ingredient.from_record(path) if records.is_record(path) else Ingredient.from_checkpoint(path)


def _read_all(paths: Iterable[AnyPath], may_go: bool) -> tuple[list[Ingredient], list[LeftOut], bool]:
    """Describe ingredients.

    Args:
        paths: Of records and checkpoints.
        may_go: Whether one that was there a moment ago may be gone, its record first.

    Returns:
        Those that can be read, the others, and whether one has gone.
    """
    found: dict[str, Ingredient] = {}
    left_out: list[LeftOut] = []
    gone = False
    for path in dict.fromkeys(paths):  # what is listed twice by one name is there once
        try:
            one = _described(path)
        except Exception as error:  # whatever is wrong with one file, the others may be all right
            if may_go and has_gone(path):
                gone = True
            else:
                left_out.append(LeftOut(path, path.parent.name or ".", reason_of(error)))
            continue
        first = found.setdefault(str(one.path.resolve()), one)
        if first is not one:
            left_out.append(LeftOut(path, one.run, f"it is the same file as {str(first.path)!r}", is_copy=True))
    return list(found.values()), left_out, gone


def run_names(ingredients: Iterable[Ingredient]) -> dict[Ingredient, str]:
    """What to call ingredients in a table: by their run; by run and checkpoint, or path, where that is not enough."""
    known = list(dict.fromkeys(ingredients))
    choices = {one: (one.run, one.name, f"{one.run}/{one.path.name}") for one in known}
    taken = [Counter(kind) for kind in zip(*choices.values(), strict=True)]
    return {
        one: next((name for name, counts in zip(names, taken, strict=True) if counts[name] == 1), str(one.path))
        for one, names in choices.items()
    }
