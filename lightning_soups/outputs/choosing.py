"""Which format a path means, and whether something can be saved there."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from torch import nn

from lightning_soups.files import check_name
from lightning_soups.leftovers import clean, heal
from lightning_soups.outputs import hugging_face, lightning_checkpoint, safetensors, state_dict
from lightning_soups.outputs.document import read_document
from lightning_soups.outputs.submodel import find_submodel
from lightning_soups.paths import AnyPath, any_path, in_order
from lightning_soups.weights.formats.folder import model_file


class _FileFormat(Protocol):
    """What the module of a format offers."""

    def write(self, checkpoint: Mapping[str, Any], path: AnyPath) -> None: ...
    def read(self, path: AnyPath) -> dict[str, Any]: ...
    def read_provenance(self, path: AnyPath) -> dict[str, Any]: ...


_FILES: dict[str, _FileFormat] = {
    ".ckpt": lightning_checkpoint,
    ".pt": state_dict,
    ".pth": state_dict,
    ".safetensors": safetensors,
}
_SEPARATORS = tuple(separator for separator in (os.sep, os.altsep) if separator)


def check(
    output: str | os.PathLike[str] | AnyPath, module: nn.Module | None = None, submodule: str | None = None
) -> None:
    """Say what is wrong with an output before any work is done for it.

    Args:
        output: A file or folder as the user wrote it: a separator at the end makes any name a folder's.
        module: What a folder is written by, see :func:`find_submodel`.
        submodule: See :func:`find_submodel`.

    Raises:
        ValueError: The suffix is not known, something else is in the way, a package is missing, or the module has no
            one submodule that can write a folder.
    """
    path = any_path(output, "output")
    check_name(path, "output")
    if not _is_folder(output):
        if path.is_dir():
            raise ValueError(f"The output must be a file such as 'soup.ckpt', got the folder {str(path)!r}.")
        return
    if path.exists() and not hugging_face.is_soup_folder(path):
        what = "folder that is not a soup's" if path.is_dir() else "file"
        raise ValueError(
            f"The output {str(path)!r} is an existing {what} and will not be replaced. Give the name of a new folder,"
            f" or of a file that ends in one of {', '.join(_FILES)}."
        )
    if module is not None:
        find_submodel(module, submodule)


def write(
    checkpoint: Mapping[str, Any],
    output: str | os.PathLike[str] | AnyPath,
    module: nn.Module | None = None,
    submodule: str | None = None,
    source: AnyPath | None = None,
) -> None:
    """Write a soup's checkpoint in the format that the output's name means.

    Args:
        checkpoint: The averaged ``state_dict``, the soup's provenance, and what else the ingredients' checkpoints hold.
        output: Where; see :func:`check`.
        module: See :func:`check`.
        submodule: See :func:`check`.
        source: Where the checkpoint was read from.

    Raises:
        ValueError: See :func:`check`; or the format cannot hold the weights.
    """
    path = any_path(output, "output")
    if _is_folder(output):
        submodel = None if module is None else find_submodel(module, submodule)
        hugging_face.write(checkpoint, path, submodel, source)
    else:
        _FILES[path.suffix.lower()].write(checkpoint, path)


def read(path: AnyPath) -> dict[str, Any]:
    """Read a soup's checkpoint in any format; its tensors stay on disk until they are used.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: It is not a soup.
    """
    return _format(path).read(path)


def read_provenance(path: AnyPath) -> dict[str, Any]:
    """Read what a soup in any format says of itself.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: It is not a soup.
    """
    return _format(path).read_provenance(path)


def is_soup(path: AnyPath) -> bool:
    """Whether a file or folder is a soup, or a part of one; False for what cannot be read."""
    if hugging_face.is_soup_folder(path.parent) or hugging_face.is_soup_folder(path):
        return True
    if path.is_dir():
        model = model_file(cast(Path, path))  # of URLs it asks no more than of paths
        return model is not None and is_soup(model)
    try:
        if path.suffix == ".json":
            beside = path.with_suffix("").suffix.lower() in (".pt", ".pth")
            return beside and bool(read_document(path))
        return bool(read_provenance(path))
    except (ValueError, FileNotFoundError):
        return False


def soups_in(directory: AnyPath) -> list[AnyPath]:
    """List the files and folders of a directory that are soups by their names, in the order of these."""
    if isinstance(directory, Path):
        clean(directory)
    return in_order(
        path
        for path in directory.glob("*")
        if not path.name.startswith(".")
        and (hugging_face.is_soup_folder(path) or (path.suffix.lower() in _FILES and path.is_file()))
    )


def _format(path: AnyPath) -> _FileFormat:
    if isinstance(path, Path):
        heal(path)
    return hugging_face if path.is_dir() else _FILES.get(path.suffix.lower(), lightning_checkpoint)


def _is_folder(output: str | os.PathLike[str] | AnyPath) -> bool:
    """Whether an output is to be a folder: its name has no suffix or ends with a separator, or it is a soup's folder.

    Raises:
        ValueError: Its suffix is none of a format.
    """
    path = any_path(output, "output")
    if str(output).endswith(_SEPARATORS) or hugging_face.is_soup_folder(path):
        return True
    if path.suffix and path.suffix.lower() not in _FILES:
        raise ValueError(
            f"The suffix {path.suffix!r} of the output {str(path)!r} is none of a format. For a file, use one of"
            f" {', '.join(_FILES)}; for a Hugging Face folder, no suffix, or a '/' at the end."
        )
    return not path.suffix
