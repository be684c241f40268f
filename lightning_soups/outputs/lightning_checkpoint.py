"""``.ckpt``: a Lightning checkpoint, the only format that ``load_from_checkpoint`` and ``--ckpt_path`` take."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch

from lightning_soups.files import replacing
from lightning_soups.local_copies import local_copy
from lightning_soups.paths import AnyPath
from lightning_soups.records import SOUP_KEY
from lightning_soups.weights import read_checkpoint

# what Lightning asks of a checkpoint, in case the ingredients are none
_WITHOUT_A_RUN = {"epoch": 0, "global_step": 0, "pytorch-lightning_version": version("lightning")}


def write(checkpoint: Mapping[str, Any], path: AnyPath) -> None:
    """Write a soup's checkpoint as it is."""
    with replacing(path) as temporary, temporary.open("wb") as file:  # so that errors are the system's own
        torch.save({**_WITHOUT_A_RUN, **checkpoint}, file)


def read(path: AnyPath) -> dict[str, Any]:
    """Read a soup's checkpoint; its tensors stay on disk until they are used.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a checkpoint that can be read safely.
    """
    return read_checkpoint(local_copy(path))


def read_provenance(path: AnyPath) -> dict[str, Any]:
    """Read what a soup's checkpoint says of the soup.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a soup.
    """
    provenance = read_checkpoint(local_copy(path)).get(SOUP_KEY)
    if not isinstance(provenance, dict):
        raise ValueError(f"{str(path)!r} is a checkpoint but not a soup: it has no {SOUP_KEY!r} entry.")
    return provenance
