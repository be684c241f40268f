"""Finding ingredients: soup directories, checkpoints, globs of them."""

import difflib
import glob
import os
from collections.abc import Sequence
from pathlib import Path

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_soups import outputs, records
from lightning_soups.files import check_name
from lightning_soups.leftovers import heal
from lightning_soups.opening import is_folder
from lightning_soups.paths import AnyPath, any_path, fresh, in_order


def find(source: str) -> tuple[AnyPath, list[AnyPath]]:
    """Find records and checkpoints.

    Args:
        source: A soup directory, a checkpoint, or a glob of checkpoints; a path or a URL.

    Returns:
        The folder that they belong to, and their paths in order.

    Raises:
        ValueError: There is nothing.
    """
    path = any_path(source, "ingredients")
    check_name(path, "ingredients")
    if isinstance(path, Path):
        heal(path)
    source = str(path) if isinstance(path, Path) else source
    is_glob = glob.has_magic(source)
    if not is_glob or path.exists():  # a name may hold brackets
        if fresh(path).is_dir():
            found = records.find_records(path)
            if not found and is_folder(path):
                return path.parent, [path]
            if not found:
                raise ValueError(
                    f"The folder {source!r} holds no ingredients ({records.PATTERN}). Give the `dirpath` of a"
                    f" SoupCallback, or a glob of checkpoints such as 'runs/*/best.ckpt'.{_hint_inside(path)}"
                )
            return path, found
        if path.is_file():
            return path.parent, [path]
    matches = _different(_matches(source)) if is_glob else []
    if not matches:
        raise ValueError(
            f"No ingredients: {source!r} is neither a folder, a file nor a glob that matches anything.{_hint(path)}"
        )
    return _folder_of(path), matches


def _folder_of(pattern: AnyPath) -> AnyPath:
    """The folder that a glob looks in: its longest beginning that is one, though its name may hold brackets."""
    parents: Sequence[AnyPath] = pattern.parents
    for folder in parents:
        if not glob.has_magic(str(folder)) or (isinstance(folder, Path) and folder.is_dir()):
            return folder
    return pattern.parent


def _hint(path: AnyPath) -> str:
    """What a mistyped name may have been meant to be."""
    folder = path.parent
    if not isinstance(folder, Path) or glob.has_magic(str(path)) or not folder.is_dir():
        return ""
    close = difflib.get_close_matches(path.name, sorted(one.name for one in folder.iterdir()), n=1)
    return f" Did you mean {str(folder / close[0])!r}?" if close else ""


def _hint_inside(path: AnyPath) -> str:
    """What to give instead of a part of a soup directory."""
    parents: Sequence[AnyPath] = path.parents
    for above in parents[:2]:
        if path.parts[len(above.parts)] == "runs" and records.find_records(above):
            return f" It is a part of the soup directory {str(above)!r}."
    return ""


def _matches(pattern: str) -> list[AnyPath]:
    found: list[AnyPath]
    fs, path = url_to_fs(pattern)
    if isinstance(fs, LocalFileSystem):
        place = Path(path if "://" in pattern else pattern)
        folder = _folder_of(place)  # which is there, so its brackets and stars are just characters
        local = os.path.join(glob.escape(str(folder)), *place.parts[len(folder.parts) :])
        found = [Path(match) for match in glob.glob(local, recursive=True)]
    else:
        fs.invalidate_cache()
        matches = [match for match in fs.glob(path) if not _is_hidden(match, path)]
        found = [any_path(fs.unstrip_protocol(match), "ingredients") for match in matches]
    return in_order(match for match in found if match.is_file() or is_folder(match))


def _is_hidden(path: str, pattern: str) -> bool:
    """Whether a name begins with a dot that the pattern does not have, as glob on disks sees it."""
    return any(part.startswith(".") and part not in pattern.split("/") for part in path.split("/"))


def _different(paths: list[AnyPath]) -> list[AnyPath]:
    """Leave out what a glob catches besides ingredients: records, parts of folders, initializations and soups."""
    with_checkpoints = {path.with_suffix(records.SUFFIX) for path in paths if not records.is_record(path)}
    paths = [path for path in paths if not records.is_record(path) or records.recorded_file(path) is not None]
    folders = {path for path in paths if path.is_dir()}
    kept = []
    for path in paths:
        if (records.is_record(path) and path in with_checkpoints) or not folders.isdisjoint(path.parents):
            continue
        if path.parent.name == records.INITIALIZATIONS or outputs.is_soup(path):
            rank_zero_warn(f"Left out of the glob's matches: {str(path)!r} is an initialization or a soup.")
            continue
        kept.append(path)
    return kept
