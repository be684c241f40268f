"""Opening a checkpoint of any kind, wherever it is."""

from pathlib import Path
from typing import Any, NamedTuple, cast

from lightning_soups.leftovers import is_temporary
from lightning_soups.local_copies import local_copies, local_copy
from lightning_soups.outputs import hugging_face
from lightning_soups.paths import AnyPath, has_gone
from lightning_soups.weights import (
    consolidate,
    is_checkpoint_folder,
    is_distributed,
    read_checkpoint,
    read_rest,
    weight_files,
)
from lightning_soups.weights.adapter_folders import CONFIG
from lightning_soups.weights.formats.dcp_metadata import METADATA
from lightning_soups.weights.formats.folder import model_file
from lightning_soups.weights.formats.sharded import INDEX_SUFFIX, files_of_index


class Opened(NamedTuple):
    """A checkpoint that was opened.

    Args:
        content: Its ``"state_dict"``, and all else that a Lightning checkpoint has.
        files: The local files that its tensors are mapped from.
    """

    content: dict[str, Any]
    files: list[Path]


def open_checkpoint(path: AnyPath) -> Opened:
    """Open a checkpoint lazily and safely; see :func:`~lightning_soups.weights.read_checkpoint`.

    Remote ones are fetched first, and distributed ones put together; both is done once and kept among the local copies.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: It is no checkpoint that can be read safely, or there is no room for a local copy.
    """
    try:
        return _open(path)
    except (FileNotFoundError, ValueError):  # the latter of libraries, when it goes after they were asked to read it
        if not has_gone(path):
            raise
    raise FileNotFoundError(
        f"There is no checkpoint at {str(path)!r}. If a run that still trains recorded it, that run has put a better"
        " one in its place: list the ingredients again, best when the runs have ended."
    )


def _open(path: AnyPath) -> Opened:
    local = local_copy(path)
    if hugging_face.is_soup_folder(local):  # which may hold weights besides those of the Hugging Face model
        return Opened(hugging_face.read(local), [part for part in local.iterdir() if part.suffix == ".safetensors"])
    if not is_distributed(local):
        return Opened(read_checkpoint(local), weight_files(local))
    stats = [(part.name, part.stat().st_size, part.stat().st_mtime_ns) for part in files_of(local)]
    size = sum(size for _, size, _ in stats)
    whole = local_copies().keep(
        str(local.absolute()), repr(stats), "model.safetensors", size, lambda out: consolidate(local, out)
    )
    return Opened({**read_rest(local), **read_checkpoint(whole)}, [whole])


def files_of(path: Path) -> list[Path]:
    """List all files that a checkpoint on a local disk is made of: one, those that an index names, or a folder's.

    Raises:
        ValueError: An index cannot be read.
    """
    if path.is_dir():
        return sorted(part for part in path.rglob("*") if part.is_file() and not is_temporary(part))
    if path.name.endswith(INDEX_SUFFIX):
        return [path, *files_of_index(path)]
    return [path]


def is_adapter(path: AnyPath) -> bool:
    """Whether a path is a folder that holds an adapter."""
    return (path / CONFIG).is_file()


def is_folder(path: AnyPath) -> bool:
    """Whether a path is a folder that is a checkpoint as a whole, or an adapter."""
    if is_adapter(path):
        return True
    if isinstance(path, Path):
        return is_checkpoint_folder(path)
    return path.is_dir() and ((path / METADATA).is_file() or model_file(cast(Path, path)) is not None)
