"""Finding ingredients: soup directories, checkpoints, globs of them."""

import glob
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
    is_glob = any(char in source for char in "*?[")
    fixed = source if not is_glob else source[: min(source.index(char) for char in "*?[" if char in source)]
    path = any_path(source, "ingredients")
    check_name(path, "ingredients")
    if isinstance(path, Path):
        heal(path)
    if not is_glob or path.exists():  # a name may hold brackets
        if fresh(path).is_dir():
            found = records.find_records(path)
            if not found and is_folder(path):
                return path.parent, [path]
            if not found:
                raise ValueError(
                    f"The folder {source!r} holds no ingredients ({records.PATTERN}). Give the `dirpath` of a"
                    " SoupCallback, or a glob of checkpoints such as 'runs/*/best.ckpt'."
                )
            return path, found
        if path.is_file():
            return path.parent, [path]
    matches = _different(_matches(source)) if is_glob else []
    if not matches:
        raise ValueError(f"No ingredients: {source!r} is neither a folder, a file nor a glob that matches anything.")
    return any_path(fixed + "x", "ingredients").parent, matches


def _matches(pattern: str) -> list[AnyPath]:
    found: list[AnyPath]
    fs, path = url_to_fs(pattern)
    if isinstance(fs, LocalFileSystem):
        local = path if "://" in pattern else pattern
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
