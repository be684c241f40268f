"""``.pt`` and ``.pth``: a plain state dict, and beside it ``<name>.json``, which says what it is the average of."""

from collections.abc import Mapping
from typing import Any

import torch

from lightning_soups.files import replacing_all
from lightning_soups.local_copies import local_copy
from lightning_soups.outputs import document
from lightning_soups.paths import AnyPath
from lightning_soups.records import SOUP_KEY
from lightning_soups.weights.formats.torch_file import load_safely


def write(checkpoint: Mapping[str, Any], path: AnyPath) -> None:
    """Write a state dict for ``torch.load(weights_only=True)``, and the file beside it.

    Killed between the two, what is left is a state dict of no soup.
    """
    with replacing_all(path, _beside(path)) as (weights, beside):
        with weights.open("wb") as file:  # so that errors are the system's own
            torch.save(dict(checkpoint["state_dict"]), file)
        beside.write_text(document.to_json(checkpoint), encoding="utf-8")


def read(path: AnyPath) -> dict[str, Any]:
    """Read a soup's checkpoint; its tensors stay on disk until they are used.

    Raises:
        FileNotFoundError: There is no such file, or nothing beside it.
        ValueError: The file is not a state dict that can be read safely, or no soup.
    """
    about = _document(path)
    state_dict = load_safely(local_copy(path))
    if not isinstance(state_dict, dict):
        raise ValueError(f"{str(path)!r} must hold a dictionary of tensors, got {type(state_dict).__name__}.")
    return document.to_checkpoint(about, state_dict, str(path))


def read_provenance(path: AnyPath) -> dict[str, Any]:
    """Read what the file beside a state dict says of the soup.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: There is nothing beside it that says it is a soup.
    """
    provenance: dict[str, Any] = _document(path)[SOUP_KEY]
    return provenance


def _document(path: AnyPath) -> dict[str, Any]:
    beside = _beside(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no soup at {str(path)!r}.")
    if not beside.is_file():
        raise ValueError(f"{str(path)!r} is not a soup: it has no {beside.name!r} beside it, which would say so.")
    return document.read_document(beside)


def _beside(path: AnyPath) -> AnyPath:
    return path.with_name(f"{path.name}.json")
