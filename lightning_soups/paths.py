"""Paths on disks, and URLs of whatever fsspec can reach."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from fsspec.core import url_to_fs
from upath import UPath

from lightning_soups.durable import make_folder, sync_folder

AnyPath: TypeAlias = Path | UPath
"""A ``Path`` on a local or mounted disk, or a ``UPath``, which has the same methods, for a URL."""

_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "hf", "memory"})
_URL = re.compile(r"^[a-z][a-z0-9+.-]+(://|::)", re.IGNORECASE)


def any_path(path: str | os.PathLike[str] | UPath, parameter: str) -> AnyPath:
    """Turn what a user gave as a path into one.

    Args:
        path: A path, which may begin with ``~`` for the home folder, or a URL such as ``s3://bucket/soups/mine``.
        parameter: What the user knows it as.

    Raises:
        ValueError: It is empty, or a URL of a kind that nothing installed can reach.
    """
    if isinstance(path, UPath) and not isinstance(path, Path):
        return path
    text = os.fspath(path)
    if not text:
        raise ValueError(f"`{parameter}` is empty: give a path or a URL.")
    if not _URL.match(text):
        # torch and Lightning, which read and write some files, take ~ for the home folder, and so must we
        return Path(os.path.expanduser(text))
    try:
        url_to_fs(text)
        url = UPath(text)
    except (ImportError, ValueError) as error:  # fsspec says what to install, or that it knows no such protocol
        raise ValueError(f"`{parameter}={text}` cannot be reached: {error}") from error
    return Path(url.path) if url.protocol in ("file", "local") else url


def is_local(path: AnyPath) -> bool:
    """Whether a path is on a local or mounted disk."""
    return isinstance(path, Path)


def is_object_store(url: UPath) -> bool:
    """Whether a URL is of a store without folders, in which an object is there completely or not at all."""
    return url.protocol in _OBJECT_STORES


def fresh(path: AnyPath) -> AnyPath:
    """The same path, without what fsspec remembers of its folders: other processes may have written since."""
    if not isinstance(path, Path):
        path.fs.invalidate_cache()
    return path


def has_gone(path: AnyPath) -> bool:
    """Whether there is nothing at a path any more; False when that cannot be told."""
    try:
        return not fresh(path).exists()
    except OSError:
        return False


def in_order(paths: Iterable[AnyPath]) -> list[AnyPath]:
    """Sort paths by their parts, local and remote ones alike."""
    return sorted(paths, key=lambda path: tuple(path.parts))


def common_folder(paths: Sequence[AnyPath]) -> AnyPath:
    """The deepest folder that all paths are in; the current one when there is none."""
    whole = [path.absolute() if isinstance(path, Path) else path for path in paths]
    for folder in whole[0].parents:
        if all(folder in path.parents for path in whole):
            return folder
    return Path()


def inside(path: AnyPath, folder: AnyPath) -> str:
    """Say where in a folder a path is, with slashes.

    Raises:
        ValueError: It is not in the folder.
    """
    parts = len(folder.parts)
    if path.parts[:parts] != folder.parts:
        raise ValueError(f"{str(path)!r} is not in {str(folder)!r}.")
    return "/".join(path.parts[parts:])


def leads_out(path: AnyPath, run: AnyPath) -> bool:
    """Whether a file or folder of a run is a link to somewhere outside of the soup directory.

    The soup directory, ``runs`` and the run's folder may be links themselves, as to a larger disk: they are the user's.
    A link inside a run's folder can have come with it from elsewhere.

    Args:
        path: In the run's folder.
        run: The run's folder, two levels below the soup directory.
    """
    if not isinstance(path, Path) or not path.is_symlink():
        return False
    target = path.resolve()
    own = {run.resolve(), run.absolute().parent.parent.resolve()} - {Path(target.anchor)}
    return own.isdisjoint(target.parents)


def named_path(text: object) -> AnyPath:
    """A path that a file names, for use as a name: no server is connected to before it is used for more.

    Raises:
        ValueError: It is no path.
    """
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError(f"A path must be a text that names one, got {text!r}.")
    if not _URL.match(text):
        return Path(text)
    try:
        url = UPath(text)
    except Exception:  # of a kind that nothing installed can reach, for which every library has its own error
        return Path(text)
    return Path(url.path) if url.protocol in ("file", "local") else url


def claim_folder(folder: AnyPath) -> bool:
    """Create a folder for oneself alone.

    On disks that is one atomic ``mkdir``, also over NFS. Object stores have no folders: there it is an empty object
    that must not exist yet (a conditional write, which S3, Google Cloud Storage and others have).

    Args:
        folder: What to create. Its parents are created too.

    Returns:
        False when somebody has it already.
    """
    if not isinstance(folder, Path):
        return not fresh(folder).exists() and claim_object(folder / ".claimed", b"\n")
    try:
        make_folder(folder.parent)
        folder.mkdir()
        sync_folder(folder.parent)
    except FileExistsError:
        return False
    return True


def claim_object(url: UPath, content: bytes) -> bool:
    """Create an object that must not exist yet.

    Returns:
        False when it does.
    """
    try:
        if not is_object_store(url):
            url.parent.mkdir(parents=True, exist_ok=True)
        with url.fs.open(url.path, "xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True
