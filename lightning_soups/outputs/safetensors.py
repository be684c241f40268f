"""``.safetensors``: tensors only, and in the file's metadata what they are the average of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lightning_soups.files import replacing
from lightning_soups.local_copies import local_copy
from lightning_soups.outputs import document
from lightning_soups.paths import AnyPath
from lightning_soups.records import SOUP_KEY
from lightning_soups.weights.formats.safetensors_file import read_safetensors
from lightning_soups.weights.tied import tied_names

_TIED = "tied"
_IO = "I/O error"  # in the library's only class of errors, of which the others are about what is written


def write(checkpoint: Mapping[str, Any], path: AnyPath) -> None:
    """Write a file for ``safetensors.torch``.

    A tensor that has several names is written under the first of them, as the format demands, and the others are noted:
    ``safetensors.torch.load_model`` loads such files. What is no tensor (a module's extra state) is left out, with a
    warning.

    Raises:
        ValueError: A tensor is of a kind that the format does not have.
    """
    with replacing(path) as temporary:
        write_tensors(checkpoint["state_dict"], temporary, checkpoint)


def read(path: AnyPath) -> dict[str, Any]:
    """Read a soup's checkpoint; its tensors stay on disk until they are used.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a soup.
    """
    about = _document(path)
    return document.to_checkpoint(about, read_tensors(path, about.get(_TIED, {})), str(path))


def read_provenance(path: AnyPath) -> dict[str, Any]:
    """Read what a file's metadata say of the soup.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a soup.
    """
    provenance: dict[str, Any] = _document(path)[SOUP_KEY]
    return provenance


def write_tensors(state_dict: Mapping[str, Any], path: Path, about: Mapping[str, Any] | None = None) -> None:
    """Write a state dict to a path that is not taken.

    Args:
        state_dict: Names and tensors.
        path: The file to create.
        about: A soup's checkpoint, to be described in the metadata.

    Raises:
        ValueError: See :func:`write`.
    """
    tensors = tensors_only(state_dict)
    tied = tied_names(tensors)
    separate = {name: tensor for name, tensor in tensors.items() if name not in tied}
    metadata = {"format": "pt"}  # which Hugging Face's libraries ask for
    if about is not None:
        metadata[SOUP_KEY] = document.to_json(about, **{_TIED: tied})
    try:
        # the library wants them so, and would write what a conjugate is the conjugate of
        plain = {name: tensor.contiguous().resolve_conj().resolve_neg() for name, tensor in separate.items()}
        save_file(plain, path, metadata)
    except (KeyError, ValueError, RuntimeError, SafetensorError) as error:
        if _IO in str(error):
            raise
        kinds = sorted({str(tensor.dtype) for tensor in separate.values()})
        raise ValueError(
            f"These weights cannot be saved in the safetensors format: {error} Their dtypes are {kinds}. Save the soup"
            " as .ckpt or .pt instead."
        ) from error


def read_tensors(path: AnyPath, tied: Mapping[str, str]) -> dict[str, Tensor]:
    """Read a file's tensors, mapped from disk.

    Args:
        path: The file.
        tied: More names for some of them.
    """
    tensors = read_safetensors(local_copy(path))
    try:
        return {**tensors, **{name: tensors[one] for name, one in tied.items()}}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{str(path)!r} ties names to tensors that it does not hold: {error}.") from error


def tensors_only(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Leave out what is no tensor, with a warning."""
    tensors = {name: value for name, value in state_dict.items() if isinstance(value, torch.Tensor)}
    if others := sorted(state_dict.keys() - tensors.keys()):
        rank_zero_warn(
            f"The safetensors format holds tensors only; left out: {others}. A .ckpt or .pt file keeps such state."
        )
    return tensors


def _document(path: AnyPath) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no soup at {str(path)!r}.")
    try:
        with safe_open(local_copy(path), "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as a safetensors file: {error}") from error
    if SOUP_KEY not in metadata:
        raise ValueError(f"{str(path)!r} is not a soup: its metadata have no {SOUP_KEY!r} entry.")
    return document.from_json(metadata[SOUP_KEY], str(path))
