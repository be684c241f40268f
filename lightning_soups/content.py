"""The content of checkpoints as hashes: what tells that one has changed, or that an answer is about another one."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.progress import track

from lightning_soups.ingredients import Ingredient
from lightning_soups.local_copies import local_copy
from lightning_soups.opening import files_of

_CHUNK = 1 << 20
_THREADS = 4  # hashing releases the interpreter; disks gain little from more


def content_hash(path: Path) -> str:
    """Hash the bytes of a checkpoint, all that it holds beside the weights included.

    Args:
        path: A file, or a checkpoint of several files: its folder or its index.

    Returns:
        64 hexadecimal digits. Of a file its SHA-256, which ``sha256sum`` prints; of several files that of the list
        which ``sha256sum`` prints for them, by name, relative to the folder.
    """
    if not path.is_dir() and len(files := files_of(path)) == 1:
        return _hash(files[0])
    folder = path if path.is_dir() else path.parent
    names = {file.relative_to(folder).as_posix(): file for file in files_of(path)}
    lines = "".join(f"{_hash(names[name])}  {name}\n" for name in sorted(names))
    return hashlib.sha256(lines.encode()).hexdigest()


def content_hashes(ingredients: Iterable[Ingredient]) -> dict[Ingredient, str]:
    """The content of ingredients: as recorded when they were saved, or else hashed now, with a progress bar.

    Raises:
        OSError: One cannot be read.
        ValueError: There is no room for the local copy of a remote one.
    """
    known = {one: one.sha256 for one in ingredients}
    unknown = [one for one, recorded in known.items() if recorded is None]
    with ThreadPoolExecutor(_THREADS) as threads:
        found = threads.map(lambda one: content_hash(local_copy(one.path)), unknown)
        hashed = list(track(found, "Hashing ingredients", len(unknown), transient=True, disable=len(unknown) < 2))
    return {one: recorded or "" for one, recorded in known.items()} | dict(zip(unknown, hashed, strict=True))


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
