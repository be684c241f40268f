"""Files that are complete or absent at every instant."""

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; move it to ``path`` at once when the block ends without an error.

    The temporary name starts with a dot and ends in ``.tmp``, so no reader takes it for a record or a checkpoint.
    The bytes are on disk before the name is (flush, fsync, rename).

    Args:
        path: The file to create or replace. Its folder is created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside ``path``; rename it to ``path`` when the block ends without an error.

    No system replaces a folder that holds something in one step: an existing one is renamed away first, and back again
    should the second renaming fail, so for an instant there may be none, but never a part of one.

    Args:
        path: The folder to create or replace. The folder that it is in is created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unique = uuid.uuid4().hex[:8]
    temporary, old = (path.with_name(f".{path.name}.{unique}.{kind}") for kind in ("tmp", "old.tmp"))
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb+") as opened:
                    os.fsync(opened.fileno())
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


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON atomically.

    Args:
        path: The file to create or replace.
        content: Dictionaries, lists, strings, finite numbers, booleans and None.

    Raises:
        ValueError: A number is NaN or infinite, which JSON does not have.
    """
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def local_path(path: str | os.PathLike[str], parameter: str) -> Path:
    """Turn a user's path into one, refusing what would silently become an oddly named local folder.

    Raises:
        ValueError: It is empty or a URL.
    """
    text = os.fspath(path)
    if not text or re.match(r"^[a-z][a-z0-9+.-]+://", text):
        raise ValueError(f"`{parameter}` must be on a local or mounted disk, got {text!r}.")
    return Path(text)


def safe_name(text: str) -> str:
    """Make a string usable as a file name on Linux, macOS and Windows; letters of any script stay."""
    return re.sub(r"[^\w.=+-]+", "_", text).strip("._") or "_"
