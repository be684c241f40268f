"""Counts the steps of a process at which something could be torn, and kills the process at one of them.

A step is a change in a folder that is watched (a file that is opened for writing, flushed to the disk, renamed,
deleted; a folder that is made or deleted) or a batch that the module sees.
"""

import contextlib
import os
import random
import shutil
import signal
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES = {"os.rename": 2, "os.remove": 1, "os.mkdir": 1, "os.rmdir": 1, "os.truncate": 1, "os.link": 2}
SYNC = "sync"

How = Literal["step", "torn", "power", "time"]


@dataclass(frozen=True)
class Kill:
    """When and how a victim dies.

    Args:
        how: ``step``: before its step number ``at``. ``torn``: as if in the middle of writing what it flushes at that
            step: the file ends somewhere in what is not on the disk yet. ``power``: as if the power failed before that
            step: every file ends somewhere in what was never flushed, and of the changes of names in a folder since it
            was flushed the last ones are undone. ``time``: by another process, after ``at`` seconds.
        at: Number of a step, from 0, or seconds.
        seed: Decides where files end.
    """

    how: How
    at: float
    seed: int = 0


class Steps:
    """The steps of this process from now on; a process can have this once.

    Args:
        root: The folder that is watched.
        kill: When to die; None for not at all.
    """

    def __init__(self, root: Path, kill: Kill | None = None) -> None:
        self.names: list[str] = []
        self._root = os.path.realpath(root)
        self._kill = kill
        self._on_disk = {state[0]: state for path in _files(self._root) if (state := _state(os.stat(path)))}
        self._names = _UnflushedNames(Path(f"{self._root}.names"))
        self._write, self._fsync = os.write, os.fsync
        self._busy = False
        os.write = self._patched_write
        os.fsync = os.fdatasync = self._patched_fsync
        sys.addaudithook(self._audit)

    def step(self, name: str, file: int | None = None) -> None:
        """One more step is about to be made.

        Args:
            name: What it is called in reports.
            file: The descriptor that is being flushed.
        """
        if self._busy:
            return
        number = len(self.names)
        self.names.append(name)
        if self._kill is None or self._kill.how == "time" or number != self._kill.at:
            return
        self._busy = True
        chance = random.Random(self._kill.seed)
        if self._kill.how == "torn" and file is not None:
            self._tear(file, os.fstat(file), chance)
        if self._kill.how == "power":
            for path in _files(self._root):
                self._tear(path, os.stat(path), chance)
            self._names.lose(chance)
        os.kill(os.getpid(), signal.SIGKILL)

    def _tear(self, file: str | int, status: os.stat_result, chance: random.Random) -> None:
        """End a file somewhere in what is not known to be on the disk."""
        inode, size, _ = _state(status)
        known = self._on_disk.get(inode, (inode, 0, 0))
        if known != _state(status):
            os.truncate(file, chance.randint(min(known[1], size), size))

    def _patched_fsync(self, file: Any) -> None:
        number = file if isinstance(file, int) else file.fileno()
        status = os.fstat(number)
        path = _descriptor_path(number)
        if self._inside(path):
            self.step(f"{SYNC} {self._short(path)}", number if os.path.isfile(path) else None)
        self._fsync(number)
        self._on_disk[status.st_ino] = _state(os.fstat(number))
        self._names.flushed(path)

    def _patched_write(self, file: int, data: Any) -> int:
        if self._inside(path := _descriptor_path(file)):
            self.step(f"write {self._short(path)}")
        return self._write(file, data)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._busy:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, (str, bytes)) and flags & _WRITES and self._inside(path := os.fsdecode(path)):
                self.step(f"open {self._short(path)}")
                self._note("open", [path])
        elif event in _CHANGES:
            count = _CHANGES[event]
            folders = arguments[-count:] if event != "os.truncate" else (-1,)
            if event == "os.mkdir":
                folders = arguments[2:]
            paths = [_absolute(*pair) for pair in zip(arguments[:count], folders, strict=False)]
            changes = os.path.lexists(paths[0]) != (event == "os.mkdir")  # else it fails, as it is meant to
            if changes and any(map(self._inside, paths)):
                self.step(" ".join([event.removeprefix("os."), *map(self._short, paths)]))
                self._note(event, paths)

    def _note(self, event: str, paths: list[str]) -> None:
        if self._kill is not None and self._kill.how == "power":
            self._busy = True
            self._names.note(event, paths)
            self._busy = False

    def _inside(self, path: str) -> bool:
        return os.path.abspath(path).startswith(self._root + os.sep)

    def _short(self, path: str) -> str:
        return os.path.relpath(path, self._root)


class _UnflushedNames:
    """Changes of names since their folders were flushed, and how to undo them.

    Args:
        kept: A folder, on the same disk, for what has lost its name.
    """

    def __init__(self, kept: Path) -> None:
        self._kept = kept
        self._undo: dict[str, list[list[tuple[str, str]]]] = {}

    def note(self, event: str, paths: list[str]) -> None:
        """A name is about to change.

        Args:
            event: As Python's audit events are called.
            paths: The name, and the new one where it is a rename.
        """
        moves: list[tuple[str, str]] = []  # what has to be renamed to undo it; to nowhere is to be deleted
        name = paths[-1]
        there = os.path.isfile(name) and not os.path.islink(name)
        if event == "os.truncate" or (event == "open" and os.path.lexists(name)):
            return
        if event == "os.rename":
            moves.append((name, paths[0]))
        elif event in ("open", "os.mkdir", "os.link"):
            moves.append((name, ""))
        if there:
            self._kept.mkdir(exist_ok=True)
            copy = str(self._kept / uuid.uuid4().hex)
            os.link(name, copy)
            moves.append((copy, name))
        self._undo.setdefault(os.path.dirname(name), []).append(moves)

    def flushed(self, folder: str) -> None:
        """The names in a folder are on the disk."""
        self._undo.pop(folder, None)

    def lose(self, chance: random.Random) -> None:
        """Undo the last changes in each folder."""
        for folder in sorted(self._undo, reverse=True):
            changes = self._undo[folder]
            for moves in reversed(changes[chance.randint(0, len(changes)) :]):
                for source, target in moves:
                    with contextlib.suppress(OSError):
                        if target:
                            os.rename(source, target)
                        elif os.path.isdir(source):
                            shutil.rmtree(source)
                        else:
                            os.remove(source)


def watch_batches(module: Any, on_batch: Callable[[], None]) -> None:
    """Call something before every ``validation_step`` and ``training_step`` of a module's class."""
    for name in ("validation_step", "training_step"):
        step = getattr(module, name)

        def watched(self: Any, *args: Any, _step: Any = step, **kwargs: Any) -> Any:
            on_batch()
            return _step(self, *args, **kwargs)

        setattr(module, name, watched)


def _files(root: str) -> list[str]:
    return sorted(os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names)


def _state(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _descriptor_path(number: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return ""


def _absolute(path: Any, folder: Any = -1) -> str:
    text = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else _descriptor_path(path)
    if os.path.isabs(text) or not isinstance(folder, int) or folder < 0:
        return os.path.abspath(text)
    return os.path.join(_descriptor_path(folder), text)
