"""Temporary files and folders: how they are named, so that it can be told who writes them, and what becomes of them.

``.soup.ckpt.1f0c66e2-4711-9be0c2d1.tmp`` will be ``soup.ckpt``; process 4711 of the machine ``1f0c66e2`` writes it.
With ``.old.tmp`` at its end it is a folder that had the name and makes way for a new one. Such names are hidden, and no
reader takes them for anything. What dead writers left is deleted; folders that they had moved away are put back.
"""

import hashlib
import os
import re
import shutil
import time
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path

from lightning_soups.processes import is_alive, machine

_NAME = re.compile(
    r"\.(?P<of>.+?)\.((?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-)?[0-9a-f]{8}(?P<old>\.old)?\.tmp", re.DOTALL
)
_LONGEST = 100  # bytes of a name that go into a temporary one, so that only the name itself can be too long
_ABANDONED = 7 * 86400.0  # seconds without a change after which nobody writes any more, on whatever machine
_MOVED = 600.0  # seconds after which nobody is still between two renames


def temporary_name(name: str, old: bool = False) -> str:
    """A name that no other writer chooses, for what is going to have, or had, another name.

    Args:
        name: That other name.
        old: Whether it had it.
    """
    writer = f"{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    return f".{_shortened(name)}.{writer}{'.old' if old else ''}.tmp"


def is_temporary(path: Path) -> bool:
    """Whether a path is, by its name, what somebody writes or has left behind."""
    return _NAME.fullmatch(path.name) is not None


def clean(folder: Path) -> None:
    """Delete what dead writers have left in a folder, and put back what they had moved away.

    A writer is dead when it was a process of this machine that there is no more, or when what it wrote has not changed
    for a week. What cannot be deleted stays.
    """
    with suppress(OSError):  # no such folder, or nobody may list it
        for path in sorted(folder.iterdir()):
            found = _NAME.fullmatch(path.name)
            if found is None or not _is_dead(found, path, _ABANDONED):
                continue
            if found["old"] is None:
                remove(path)
            else:
                _put_back(path, folder, found["of"])


def clean_soup_directory(directory: Path) -> None:
    """Do so in all folders of a soup directory that files are written to."""
    with suppress(OSError):
        runs = directory / "runs"
        for folder in (*(runs.iterdir() if runs.is_dir() else ()), *directory.iterdir(), directory):
            if folder.is_dir() and not folder.is_symlink():
                clean(folder)


def heal(path: Path) -> None:
    """Put a folder back that a writer had moved away and died before it put the new one there.

    Args:
        path: Where it was; nothing is done when there is something.
    """
    with suppress(OSError):
        if os.path.lexists(path):
            return
        own = f".{_shortened(path.name)}."
        moved = [one for one in path.parent.iterdir() if one.name.startswith(own)]
        for one in sorted(moved, key=lambda one: one.lstat().st_ctime, reverse=True):
            found = _NAME.fullmatch(one.name)
            if found is not None and found["old"] is not None and _is_dead(found, one, _MOVED):
                os.rename(one, path)
                return


def remove(path: Path) -> None:
    """Delete a file, or a folder with all that is in it, if that can be done."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _put_back(old: Path, folder: Path, of: str) -> None:
    path = folder / of  # where names are too long for this, whoever asks for one has it put back
    heal(path)
    if os.path.lexists(path):
        remove(old)


def _is_dead(found: re.Match[str], path: Path, abandoned: float) -> bool:
    if found["machine"] == _machine() and is_alive(int(found["pid"])) is False:
        return True
    return _age(path) > abandoned


def _age(path: Path) -> float:
    """Seconds since a file, or anything in a folder, was written or renamed."""
    inside = path.rglob("*") if path.is_dir() and not path.is_symlink() else ()
    changes = [max(stat.st_mtime, stat.st_ctime) for stat in (one.lstat() for one in (path, *inside))]
    last: float = max(changes)
    return time.time() - last


def _shortened(name: str) -> str:
    encoded = os.fsencode(name)
    if len(encoded) <= _LONGEST:
        return name
    return f"{encoded[:_LONGEST].decode(errors='ignore')}~{hashlib.sha256(encoded).hexdigest()[:8]}"


@cache
def _machine() -> str:
    return hashlib.sha256(machine().encode()).hexdigest()[:8]
