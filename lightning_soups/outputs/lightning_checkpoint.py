"""``.ckpt``: a Lightning checkpoint, the only format that ``load_from_checkpoint`` and ``--ckpt_path`` take."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_soups.files import replacing
from lightning_soups.records import SOUP_KEY
from lightning_soups.weights import read_checkpoint


def write(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write a soup's checkpoint as it is."""
    with replacing(path) as temporary:
        torch.save(dict(checkpoint), temporary)


def read(path: Path) -> dict[str, Any]:
    """Read a soup's checkpoint; its tensors stay on disk until they are used.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a checkpoint that can be read safely.
    """
    return read_checkpoint(path)


def read_provenance(path: Path) -> dict[str, Any]:
    """Read what a soup's checkpoint says of the soup.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a soup.
    """
    provenance = read_checkpoint(path).get(SOUP_KEY)
    if not isinstance(provenance, dict):
        raise ValueError(f"{str(path)!r} is a checkpoint but not a soup: it has no {SOUP_KEY!r} entry.")
    return provenance
