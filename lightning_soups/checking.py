"""Checks of what ingredients hold, made before it is used: unchanged since it was recorded, and finite."""

from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

from lightning_soups.bad_ingredients import reason_of
from lightning_soups.content import content_hash
from lightning_soups.ingredients import Ingredient
from lightning_soups.local_copies import local_copy
from lightning_soups.opening import files_of
from lightning_soups.weights.chunks import Release
from lightning_soups.weights.finite import not_finite

Stamp: TypeAlias = tuple[tuple[int, int, int], ...]
"""Size, time of change and number of every file of a checkpoint."""

_SHOWN = 12  # digits of a hash


class ContentChecks:
    """What is wrong with the content of ingredients; each is read once, by the thread that asks first.

    The hash is compared with the recorded one, all floating-point numbers are looked at, and files that are others than
    when they were opened are noticed. What is read is used at once, so hardly any of it is read from the disk twice.

    Args:
        checked: Ingredients that were checked before, with the stamp that their files had: all is well with those whose
            files have it still.
        finite: Whether to look for NaN and infinity.
    """

    def __init__(self, checked: Mapping[Ingredient, Stamp] | None = None, finite: bool = True) -> None:
        self._finite = finite
        self.checked: dict[Ingredient, Stamp] = dict(checked or {})
        self._expected: dict[Ingredient, str] = {}
        self._opened: dict[Ingredient, Stamp] = {}
        self._found: dict[Ingredient, str | None] = {}
        self._locks: dict[Ingredient, Lock] = {}
        self._lock = Lock()

    def content(self, ingredient: Ingredient) -> str:
        """What an ingredient holds, as a hash: as recorded, or else found out now.

        Raises:
            OSError: It cannot be read.
        """
        if ingredient.sha256 is not None:
            return ingredient.sha256
        stamp = _stamp_or_none(ingredient)
        if stamp is None:
            return f"gone since it was opened, {self._opened.get(ingredient)}"
        if ingredient not in self._expected:
            self._expected[ingredient] = content_hash(local_copy(ingredient.path))
        changed = stamp != self._opened.get(ingredient, stamp)
        return f"{self._expected[ingredient]}, changed {stamp}" if changed else self._expected[ingredient]

    def opened(self, ingredient: Ingredient) -> None:
        """Note how the files of an ingredient look that are about to be opened."""
        with suppress(FileNotFoundError):  # opening says it better
            self._opened[ingredient] = _stamp(ingredient)

    def problem(
        self,
        ingredient: Ingredient,
        tensors: Callable[[], Mapping[str, Any]],
        parameters: Container[str],
        release: Release,
    ) -> str | None:
        """Find out what is wrong with an ingredient, or remember it.

        Args:
            ingredient: It was opened.
            tensors: Gives its weights as they are in the file, on CPU.
            parameters: The names of those that are parameters.
            release: Called with each piece of a tensor that has been read.

        Returns:
            What is wrong, in words; None when all is well.
        """
        with self._lock:
            lock = self._locks.setdefault(ingredient, Lock())
        with lock:
            if ingredient not in self._found:
                self._found[ingredient] = self._look(ingredient, tensors, parameters, release)
            return self._found[ingredient]

    def _look(
        self,
        ingredient: Ingredient,
        tensors: Callable[[], Mapping[str, Any]],
        parameters: Container[str],
        release: Release,
    ) -> str | None:
        try:
            opened = self._opened.get(ingredient)
            stamp = _stamp_or_none(ingredient)
            if stamp is None and opened is not None:
                # its run has recorded a better one and deleted it; what was opened stays, and all but its hash can be
                # checked still
                return self._not_finite(tensors, parameters, release)
            if stamp is None:
                return "it cannot be read any more: it has gone"
            if stamp != (opened or stamp):  # reading what was cut off would kill the process
                return "its file was changed after it had been opened"
            if self.checked.get(ingredient) == stamp:
                return None
            expected = ingredient.sha256 or self._expected.get(ingredient)
            if expected is not None and (actual := content_hash(local_copy(ingredient.path))) != expected:
                return (
                    f"its content is not what was {'recorded' if ingredient.sha256 else 'there when work began'}:"
                    f" SHA-256 {actual[:_SHOWN]}… instead of {expected[:_SHOWN]}…; it was changed or damaged since"
                )
        except (OSError, ValueError) as error:
            return f"it cannot be read any more: {reason_of(error)}"
        if (reason := self._not_finite(tensors, parameters, release)) is not None:
            return reason
        self.checked[ingredient] = stamp
        return None

    def _not_finite(
        self, tensors: Callable[[], Mapping[str, Any]], parameters: Container[str], release: Release
    ) -> str | None:
        found = not_finite(tensors(), parameters, release) if self._finite else None
        return f"its weights are not finite: {found}" if found else None


def _stamp_or_none(ingredient: Ingredient) -> Stamp | None:
    try:
        return _stamp(ingredient)
    except FileNotFoundError:
        return None


def _stamp(ingredient: Ingredient) -> Stamp:
    files: list[Path] = files_of(local_copy(ingredient.path))
    stats = [file.stat() for file in files]
    return tuple((stat.st_size, stat.st_mtime_ns, stat.st_ino) for stat in stats)
