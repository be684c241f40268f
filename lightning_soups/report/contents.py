"""What a report is about: the ingredients, soups and studies of a directory, each with the file that it comes from."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, NamedTuple, TypeVar

from lightning_soups.ingredient import Ingredient
from lightning_soups.paths import AnyPath
from lightning_soups.score import Mode, Score
from lightning_soups.soup import Soup
from lightning_soups.studies.result import StudyResult

_T = TypeVar("_T")


class Figure(NamedTuple):
    """A study's figure as it lies on disk."""

    source: str
    media_type: str
    content: bytes


class Failure(NamedTuple):
    """A file that could not be read, and why."""

    source: str
    reason: str


@dataclass(frozen=True)
class Recorded:
    """An ingredient.

    Args:
        source: Its record, a path inside the directory.
        ingredient: The ingredient.
        score: Its recorded score.
        record: What the record holds.
    """

    source: str
    ingredient: Ingredient
    score: Score
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Cooked:
    """A soup.

    Args:
        source: Its file or folder, a path inside the directory.
        soup: The soup.
        versions: Of the packages that it was cooked with.
        created: When.
    """

    source: str
    soup: Soup
    versions: Mapping[str, Any]
    created: str


@dataclass(frozen=True)
class Studied:
    """The result of a study.

    Args:
        source: Its JSON file, a path inside the directory.
        result: The result.
        figure: What was drawn; None when nothing was.
    """

    source: str
    result: StudyResult
    figure: Figure | None


@dataclass(frozen=True)
class Contents:
    """All that a report is about; ingredients and soups are best first where their scores can be compared."""

    directory: AnyPath
    ingredients: Sequence[Recorded]
    soups: Sequence[Cooked]
    studies: Sequence[Studied]
    failures: Sequence[Failure]

    def find(self, ingredient: Ingredient) -> Recorded | None:
        """The record here that says the same as a soup does about one of its ingredients.

        Folders do not count, so that a directory which was moved or copied still knows its own.
        """
        return self._by_identity.get(_identity(ingredient))

    def label(self, ingredient: Ingredient) -> str:
        """What to call an ingredient: its run, with the checkpoint when the run recorded several."""
        return ingredient.name if self._runs[ingredient.run] > 1 else ingredient.run

    def soup_label(self, one: Cooked) -> str:
        """What to call a soup: its recipe, with the file when the recipe was cooked several times."""
        return _told_apart(one.soup.recipe, PurePosixPath(one.source).name, [other.soup.recipe for other in self.soups])

    def study_label(self, one: Studied) -> str:
        """What to call a study, with the file when it was run several times."""
        return _told_apart(
            one.result.study, PurePosixPath(one.source).stem, [other.result.study for other in self.studies]
        )

    def best_single(self, monitor: str, mode: Mode) -> Recorded | None:
        """The ingredient with the best recorded score; None when none has one of this metric."""
        return next(
            (one for one in self.ingredients if judge_ingredient(one)[0] == monitor and one.score.mode == mode), None
        )

    def best_soups(self, monitor: str, mode: Mode) -> list[Cooked]:
        """The soups with the best held-out score of this metric: several when they are equal."""
        group = by_monitor(self.soups, judge_soup).get((monitor, mode), [])
        return [one for one in group if one.soup.score == group[0].soup.score]

    def gain(self, one: Cooked) -> float | None:
        """By how much a soup is better than the best single ingredient; negative when it is worse."""
        best = self.best_single(one.soup.monitor, one.soup.score.mode)
        if best is None:
            return None
        difference = one.soup.score.value - best.score.value
        return difference if one.soup.score.mode == "max" else -difference

    @cached_property
    def _runs(self) -> Counter[str]:
        return Counter(one.ingredient.run for one in self.ingredients)

    @cached_property
    def _by_identity(self) -> dict[object, Recorded]:
        return {_identity(one.ingredient): one for one in self.ingredients}


def by_monitor(items: Iterable[_T], judge: Callable[[_T], tuple[str, Score]]) -> dict[tuple[str, Mode], list[_T]]:
    """Group what can be compared, best first; equal ones keep their order.

    Args:
        items: What to group.
        judge: Gives the metric that an item is judged by, and its score.
    """
    groups: dict[tuple[str, Mode], list[_T]] = {}
    for item in items:
        monitor, score = judge(item)
        groups.setdefault((monitor, score.mode), []).append(item)
    return {key: sorted(groups[key], key=lambda item: judge(item)[1], reverse=True) for key in sorted(groups)}


def judge_ingredient(one: Recorded) -> tuple[str, Score]:
    """What an ingredient is judged by."""
    return str(one.ingredient.monitor), one.score


def judge_soup(one: Cooked) -> tuple[str, Score]:
    """What a soup is judged by."""
    return one.soup.monitor, one.soup.score


def _told_apart(name: str, file: str, names: Sequence[str]) -> str:
    return name if names.count(name) == 1 else f"{name} ({file})"


def _identity(ingredient: Ingredient) -> object:
    metrics = repr(sorted(ingredient.metrics.items()))  # as text, NaN equals itself
    return ingredient.name, ingredient.step, ingredient.initialization, metrics
