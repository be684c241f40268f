"""Files that are complete or absent at every instant."""

import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from upath import UPath

from lightning_soups.paths import AnyPath, is_object_store

TEMPORARY = ".tmp"  # the suffix of what is not complete yet
_UMASK = os.umask(0)
os.umask(_UMASK)  # there is no way to ask without setting it


@contextmanager
def replacing(path: AnyPath) -> Iterator[Path]:
    """Yield a temporary local path; move it to ``path`` at once when the block ends without an error.

    On disks it is beside ``path``; its name starts with a dot and ends in ``.tmp``, so no reader takes it for a record
    or a checkpoint. The bytes are on disk before the name is (flush, fsync, rename). What goes to a URL is uploaded
    when it is complete.

    Args:
        path: The file to create or replace. Its folder is created.
    """
    if not isinstance(path, Path):
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / path.name
            yield local
            _upload(local, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(_temporary_name(path))
    try:
        yield temporary
        _finish(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: AnyPath) -> Iterator[Path]:
    """Yield an empty temporary folder; it becomes ``path`` when the block ends without an error.

    On disks it is beside ``path`` and renamed. No system replaces a folder that holds something in one step: an
    existing one is renamed away first, and back again should the second renaming fail, so for an instant there may be
    none, but never a part of one. At a URL its files appear one after the other, those at the top in alphabetical order
    and last; then what an earlier folder had more is deleted.

    Args:
        path: The folder to create or replace. The folder that it is in is created.
    """
    if not isinstance(path, Path):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            _upload_folder(Path(folder), path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unique = uuid.uuid4().hex[:8]
    temporary, old = (path.with_name(f".{path.name}.{unique}.{kind}") for kind in ("tmp", "old.tmp"))
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _finish(file)
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(temporary, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def check_writable(path: AnyPath, parameter: str) -> None:
    """Make sure that a file can be created, before work begins that ends in it. No folder is created.

    Args:
        path: What is going to be written.
        parameter: What the user knows it as.

    Raises:
        ValueError: It cannot, and why.
    """
    try:
        if isinstance(path, Path):
            folder = next(folder for folder in path.absolute().parents if folder.exists())
            with tempfile.TemporaryFile(dir=folder):
                pass
        else:
            trial = path.with_name(_temporary_name(path))
            trial.write_bytes(b"")
            trial.unlink()
    except Exception as error:  # storage libraries raise errors of their own
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"`{parameter}` cannot be written at {str(path)!r}: {reason}") from error


def _finish(path: Path) -> None:
    """Bring a file's bytes to the disk; whoever may read new files may read it, whatever a library has made of that."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    path.chmod(0o666 & ~_UMASK)


def _upload(local: Path, url: UPath) -> None:
    fs = url.fs
    if is_object_store(url):  # an upload appears when it is complete, and renaming it would be another copy
        fs.put_file(str(local), url.path)
        return
    url.parent.mkdir(parents=True, exist_ok=True)
    temporary = url.with_name(_temporary_name(url))
    try:
        fs.put_file(str(local), temporary.path)
        fs.mv(temporary.path, url.path)
    finally:
        temporary.unlink(missing_ok=True)


def _upload_folder(local: Path, url: UPath) -> None:
    fs = url.fs
    fs.invalidate_cache()
    before = set(fs.find(url.path)) if url.exists() else set()
    files = sorted((path for path in local.rglob("*") if path.is_file()), key=lambda path: (path.parent == local, path))
    uploaded = {file: url / file.relative_to(local).as_posix() for file in files}
    for file, target in uploaded.items():
        _upload(file, target)
    for surplus in before - {fs._strip_protocol(target.path) for target in uploaded.values()}:
        fs.rm_file(surplus)


def _temporary_name(path: AnyPath) -> str:
    return f".{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY}"


def write_json(path: AnyPath, content: Any) -> None:
    """Write strict JSON atomically.

    Args:
        path: The file to create or replace.
        content: Dictionaries, lists, strings, finite numbers, booleans and None.

    Raises:
        ValueError: A number is NaN or infinite, which JSON does not have.
    """
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def append_durably(path: Path, line: bytes) -> None:
    """Add a line to a file, so that it is on disk on return; a torn line that a dead writer left stays apart.

    Args:
        path: Is created, with its folder, when there is none.
        line: Ends in a line feed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def safe_name(text: str) -> str:
    """Make a string usable as a file name on Linux, macOS and Windows; letters of any script stay."""
    return re.sub(r"[^\w.=+-]+", "_", text).strip("._") or "_"
