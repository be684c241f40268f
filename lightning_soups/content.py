"""The content of checkpoints as hashes: what tells that one has changed, or that an answer is about another one."""

import hashlib
from pathlib import Path

from lightning_soups.ingredients import Ingredient
from lightning_soups.local_copies import local_copy
from lightning_soups.opening import files_of

_CHUNK = 1 << 20


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


class ContentHashes:
    """Says what ingredients hold: as recorded when they were saved, or else hashed when first asked for."""

    def __init__(self) -> None:
        self._known: dict[Ingredient, str] = {}

    def __call__(self, ingredient: Ingredient) -> str:
        """The content of an ingredient.

        Raises:
            OSError: It cannot be read.
            ValueError: There is no room for the local copy of a remote one.
        """
        if ingredient.sha256 is not None:
            return ingredient.sha256
        if ingredient not in self._known:
            self._known[ingredient] = content_hash(local_copy(ingredient.path))
        return self._known[ingredient]


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
