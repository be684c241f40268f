"""Local copies of remote checkpoints, fetched once and kept in a folder of limited size."""

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout
from fsspec.callbacks import Callback, NoOpCallback, TqdmCallback
from upath import UPath

from lightning_soups.durable import make_folder
from lightning_soups.files import replacing_folder
from lightning_soups.leftovers import clean, is_temporary, remove, temporary_name
from lightning_soups.paths import AnyPath, fresh
from lightning_soups.write_errors import explained

FOLDER_VARIABLE = "LIGHTNING_SOUPS_CACHE"
LIMIT_VARIABLE = "LIGHTNING_SOUPS_CACHE_GB"
_DEFAULT_GB = 100.0
_SMALL = 20e6  # bytes, which come without a bar
_JUST_USED = 60.0  # seconds for which what a process asked for stays, so that it can open it


class LocalCopies:
    """Copies of files and folders, each under the version of its source that it was made from.

    Any number of processes may use one folder at once; each source is fetched by one of them. What was used longest ago
    is deleted when room is needed, but nothing that this process has used.

    Args:
        folder: Where the copies are kept.
        limit: How many bytes they may take in all.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._used: set[Path] = set()

    def fetch(self, url: UPath) -> Path:
        """Copy a remote file, or a folder with all that is in it, unless that was done before.

        Raises:
            FileNotFoundError: There is nothing at the URL.
            ValueError: It changed while it was read, came incompletely, or is larger than all copies may be.
        """
        files = _files(url)
        if not files:
            raise FileNotFoundError(f"There is nothing at {str(url)!r}.")
        size = sum(length or 0 for _, length, _ in files)

        def download(copy: Path) -> None:
            for path, length, _ in files:
                local = copy / path[len(url.path) :].lstrip("/") if path != url.path else copy
                if ".." in local.parts:  # a key of an object store may say so
                    raise ValueError(f"{path!r} lies outside of its folder.")
                local.parent.mkdir(parents=True, exist_ok=True)
                url.fs.get_file(path, str(local), callback=_progress(path, length))
                if length is not None and local.stat().st_size != length:
                    raise ValueError(f"{path!r} came with {local.stat().st_size} bytes instead of {length}: try again.")
            if _files(url) != files:
                raise ValueError(f"{str(url)!r} changed while it was fetched: try again.")

        return self.keep(str(url), repr(files), url.name, size, download)

    def keep(self, source: str, version: str, name: str, size: int, make: Callable[[Path], None]) -> Path:
        """Return the copy of one version of a source; make it when there is none.

        Args:
            source: What it is a copy of.
            version: Differs when the source has other content.
            name: What to call the copy.
            size: How many bytes it takes, or about that.
            make: Makes the copy at the path that it is given.

        Raises:
            ValueError: It is larger than all copies may be.
            WriteError: It cannot be written.
        """
        entry = self._folder / f"{_digest(source)}-{_digest(version)}"
        with explained(entry, self._folder):
            make_folder(self._folder)
            with FileLock(_lock(entry)):
                if not entry.exists():
                    with FileLock(self._folder / "room.lock"):
                        self._make_room(size, source)
                    with replacing_folder(entry) as temporary:
                        make(temporary / name)
                os.utime(entry)
        self._used.add(entry)
        return entry / name

    def _make_room(self, needed: int, source: str) -> None:
        clean(self._folder)
        entries = []
        for entry in self._folder.iterdir():
            with suppress(FileNotFoundError):  # others finish and give up theirs
                if entry.is_dir():
                    entries.append((entry.stat().st_mtime, _bytes(entry), entry))
        used = sum(size for _, size, _ in entries)
        for _, size, entry in sorted(entries):
            if used + needed <= self._limit:
                return
            if entry not in self._used and not is_temporary(entry) and _evict(entry):
                used -= size
        if used + needed > self._limit:
            raise ValueError(
                f"There is no room for a local copy of {source!r}: it has {needed / 1e9:.3f} GB, and of the"
                f" {self._limit / 1e9:.3f} GB that copies may take, {used / 1e9:.3f} GB are in use. Set the environment"
                f" variable {LIMIT_VARIABLE} to more, or {FOLDER_VARIABLE} to a folder on a larger disk."
            )


def _evict(entry: Path) -> bool:
    """Delete a copy, unless a process is asking for it or just has; in one step, so that nobody gets a part of it."""
    gone = entry.with_name(temporary_name(entry.name))
    try:
        with FileLock(_lock(entry), timeout=0):
            if time.time() - entry.stat().st_mtime <= _JUST_USED:
                return False
            os.replace(entry, gone)
    except (Timeout, OSError):
        return False
    remove(gone)
    return True


def _lock(entry: Path) -> Path:
    return entry.with_name(f"{entry.name}.lock")


def local_copy(path: AnyPath) -> Path:
    """A path on a local disk with the content of another one.

    Remote files and folders are fetched once into the folder ``LIGHTNING_SOUPS_CACHE`` (an environment variable, by
    default the user's cache folder), which may take ``LIGHTNING_SOUPS_CACHE_GB`` (by default 100) gigabytes.

    Raises:
        FileNotFoundError: There is nothing at that URL.
        ValueError: See :meth:`LocalCopies.fetch`; or the limit is not a positive number.
    """
    if isinstance(path, Path):
        return path
    return local_copies().fetch(path)


def local_copies() -> LocalCopies:
    """The copies that the environment variables say.

    Raises:
        ValueError: The limit is not a positive number.
    """
    return _local_copies(os.environ.get(FOLDER_VARIABLE), os.environ.get(LIMIT_VARIABLE))


@cache
def _local_copies(folder: str | None, gigabytes: str | None) -> LocalCopies:
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        limit = float(gigabytes or _DEFAULT_GB)
    except ValueError:
        limit = 0.0
    if not limit > 0:
        raise ValueError(f"The environment variable {LIMIT_VARIABLE} must be a number above 0, got {gigabytes!r}.")
    return LocalCopies(Path(folder or user / "lightning_soups"), int(limit * 1e9))


def _files(url: UPath) -> list[tuple[str, int | None, str]]:
    """Path, size and version of a file, or of all files in a folder."""
    fresh(url)
    fs = url.fs
    try:
        info = fs.info(url.path)
    except FileNotFoundError:
        return []
    found = fs.find(url.path, detail=True) if info["type"] == "directory" else {url.path: info}
    return sorted((path, one.get("size"), str(sorted(one.items(), key=str))) for path, one in found.items())


def _progress(path: str, size: int | None) -> Callback:
    """A bar for what takes a while to fetch."""
    if size is not None and size < _SMALL:
        return NoOpCallback()
    return TqdmCallback({"desc": f"Fetching {path}", "unit": "B", "unit_scale": True, "leave": False})


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
