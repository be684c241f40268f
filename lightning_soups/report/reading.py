"""Reads a soup directory for the report; a file that cannot be read is noted with the reason."""

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any, TypeVar

from lightning_soups import outputs, records
from lightning_soups.ingredient import Ingredient
from lightning_soups.paths import AnyPath, fresh, has_gone, in_order, inside
from lightning_soups.report.contents import (
    Contents,
    Cooked,
    Failure,
    Figure,
    Recorded,
    Studied,
    by_monitor,
    judge_ingredient,
    judge_soup,
)
from lightning_soups.soup import Soup
from lightning_soups.studies.result import StudyResult

SOUPS = "soups"
STUDIES = "studies/*.json"
_MEDIA_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}  # of figures, in the order of preference
_TEXTS = ("study", "monitor", "metric", "created")
_OBJECTS = ("options", "models", "versions")
_LISTS = {"rows": Mapping, "conclusions": str, "in_distribution": str, "shifted": str, "caveats": str}
_T = TypeVar("_T")


def read_contents(directory: AnyPath) -> Contents:
    """Read a soup directory.

    Raises:
        ValueError: There is no such folder, or nothing in it to report on.
    """
    if not fresh(directory).is_dir():
        raise ValueError(f"There is no folder {str(directory)!r}. Give the `dirpath` of a SoupCallback.")
    failures: list[Failure] = []

    def read_all(paths: Iterable[AnyPath], read: Callable[[AnyPath, str], _T]) -> list[_T]:
        found = []
        for path in paths:
            source = inside(path, directory)
            try:
                found.append(read(path, source))
            except Exception as error:  # whatever is wrong with one file, the others are worth reporting on
                if has_gone(path):  # a run that is still training has replaced it by a better one
                    continue
                reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
                failures.append(Failure(source, reason))
        return found

    ingredients = by_monitor(read_all(records.find_records(directory), _read_ingredient), judge_ingredient)
    soups = by_monitor(read_all(outputs.soups_in(directory / SOUPS), _read_soup), judge_soup)
    results = in_order(directory.glob(STUDIES))
    studies = read_all(results, _read_study)
    if not (ingredients or soups or studies or failures):
        raise ValueError(
            f"The folder {str(directory)!r} holds nothing to report on: no ingredients ({records.PATTERN}), soups"
            f" ({SOUPS}/*) or studies ({STUDIES}). Give the `dirpath` of a SoupCallback."
        )
    return Contents(directory, list(chain(*ingredients.values())), list(chain(*soups.values())), studies, failures)


def _read_ingredient(path: AnyPath, source: str) -> Recorded:
    ingredient = Ingredient.from_record(path)
    _check_numbers(ingredient.metrics)
    if ingredient.monitor not in ingredient.metrics:
        raise ValueError(f"It has no {ingredient.monitor!r}, its monitor, but only {sorted(ingredient.metrics)}.")
    assert ingredient.score is not None
    return Recorded(source, ingredient, ingredient.score, records.read_record(path))


def _read_soup(path: AnyPath, source: str) -> Cooked:
    soup = Soup.load(path)
    _check_numbers({"score": soup.score.value, **soup.metrics})
    for row in soup.trace:
        _check_numbers({"score": row.score.value, "samples": row.samples, "seconds": row.seconds})
    provenance = outputs.read_provenance(path)
    return Cooked(source, soup, dict(provenance["versions"]), str(provenance["created"]))


def _read_study(path: AnyPath, source: str) -> Studied:
    result = StudyResult.load(path)
    for name, kind in [*((name, str) for name in _TEXTS), *((name, Mapping) for name in _OBJECTS)]:
        _check_kind(name, getattr(result, name), kind)
    for name, kind in _LISTS.items():
        for item in getattr(result, name):
            _check_kind(f"an entry of {name}", item, kind)
    for name, model in result.models.items():
        _check_kind(f"model {name}", model, Mapping)
        _check_kind(f"the coefficients of model {name}", model.get("coefficients"), Mapping)
    return Studied(source, result, _read_figure(path, source))


def _read_figure(path: AnyPath, source: str) -> Figure | None:
    for suffix, media_type in _MEDIA_TYPES.items():
        if (drawn := path.with_suffix(suffix)).is_file():
            return Figure(source.removesuffix(path.suffix) + suffix, media_type, drawn.read_bytes())
    return None


def _check_numbers(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{name!r} must be a number, got {value!r}.")


def _check_kind(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        wanted = "text" if kind is str else "a JSON object"
        raise ValueError(f"In the result of a study, {name} must be {wanted}, got {value!r}.")
