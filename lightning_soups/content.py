"""The content of checkpoints as hashes: what tells that one has changed, or that an answer is about another one."""

import hashlib
from pathlib import Path

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


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
