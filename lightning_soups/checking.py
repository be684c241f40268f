"""Checks of what ingredients hold, made before it is used: unchanged since it was recorded, and finite."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import TypeAlias

from lightning_soups.bad_ingredients import reason_of
from lightning_soups.content import content_hash
from lightning_soups.ingredient import Ingredient
from lightning_soups.local_copies import local_copy
from lightning_soups.opening import files_of
from lightning_soups.unchanged_file import FileState, check_unchanged, state_of

Files: TypeAlias = Mapping[Path, FileState]
"""How every file of a checkpoint looked at some moment."""

_SHOWN = 12  # digits of a hash


class ContentChecks:
    """What is wrong with the content of ingredients; each is read once, by the thread that asks first.

    The hash is compared with the recorded one, all floating-point numbers are looked at, and files that are others than
    when they were opened are noticed. What is read is used at once, so hardly any of it is read from the disk twice.

    Args:
        checked: Ingredients that were checked before, and how their files looked: all is well with those whose files
            look the same.
        finite: Whether to look for NaN and infinity.
    """

    def __init__(self, checked: Mapping[Ingredient, Files] | None = None, finite: bool = True) -> None:
        self._finite = finite
        self.checked: dict[Ingredient, Files] = dict(checked or {})
        self._expected: dict[Ingredient, str] = {}
        self._opened: dict[Ingredient, Files] = {}
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
        opened = self._opened.get(ingredient)
        try:
            if ingredient not in self._expected:
                self._expected[ingredient] = content_hash(local_copy(ingredient.path))
            files = _files(ingredient)
        except FileNotFoundError:
            return f"gone since it was opened, {opened}"
        changed = files != (opened or files)
        return f"{self._expected[ingredient]}, changed {files}" if changed else self._expected[ingredient]

    def opened(self, ingredient: Ingredient) -> None:
        """Note how the files of an ingredient look that are about to be opened."""
        with suppress(FileNotFoundError):  # opening says it better
            self._opened[ingredient] = _files(ingredient)

    def check_unchanged(self, ingredient: Ingredient, mapped: Iterable[Path]) -> None:
        """Make sure, before every use, that nobody has written into what was opened.

        Args:
            ingredient: It was opened.
            mapped: Those of its files that are mapped into memory.

        Raises:
            ValueError: Somebody has; see :func:`~lightning_soups.unchanged_file.check_unchanged`.
        """
        opened = self._opened.get(ingredient, {})
        for file in opened.keys() & set(mapped):
            check_unchanged(file, opened[file])

    def problem(self, ingredient: Ingredient, not_finite: Callable[[], str | None]) -> str | None:
        """Find out what is wrong with an ingredient, or remember it.

        Args:
            ingredient: It was opened.
            not_finite: Says which of its weights are not finite.

        Returns:
            What is wrong, in words; None when all is well.
        """
        with self._lock:
            lock = self._locks.setdefault(ingredient, Lock())
        with lock:
            if ingredient not in self._found:
                self._found[ingredient] = self._look(ingredient, not_finite)
            return self._found[ingredient]

    def _look(self, ingredient: Ingredient, not_finite: Callable[[], str | None]) -> str | None:
        opened = self._opened.get(ingredient)
        try:
            files = _files(ingredient)
            if files != (opened or files):  # reading what was cut off would kill the process
                return "its file was changed after it had been opened"
            if self.checked.get(ingredient) == files:
                return None
            expected = ingredient.sha256 or self._expected.get(ingredient)
            if expected is not None and (actual := content_hash(local_copy(ingredient.path))) != expected:
                return (
                    f"its content is not what was {'recorded' if ingredient.sha256 else 'there when work began'}:"
                    f" SHA-256 {actual[:_SHOWN]}… instead of {expected[:_SHOWN]}…; it was changed or damaged since"
                )
        except FileNotFoundError:
            # its run has recorded a better one and deleted it; what was opened stays, and all but its hash can be
            # checked still
            return self._infinity(not_finite) if opened is not None else "it cannot be read any more: it has gone"
        except (OSError, ValueError) as error:
            return f"it cannot be read any more: {reason_of(error)}"
        if (reason := self._infinity(not_finite)) is not None:
            return reason
        self.checked[ingredient] = files
        return None

    def _infinity(self, not_finite: Callable[[], str | None]) -> str | None:
        found = not_finite() if self._finite else None
        return f"its weights are not finite: {found}" if found else None


def _files(ingredient: Ingredient) -> Files:
    return {file: state_of(file) for file in files_of(local_copy(ingredient.path))}
