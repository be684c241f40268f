"""Checkpoints cut into several files, with an index that says which tensor is in which."""

import re
from pathlib import Path
from typing import Any

from lightning_soups.weights.formats.file_names import is_plain_name
from lightning_soups.weights.formats.plain_json import read_json
from lightning_soups.weights.formats.safetensors_file import read_safetensors
from lightning_soups.weights.formats.torch_file import read_torch

INDEX_SUFFIX = ".index.json"
_PIECE = re.compile(r"-\d{5}-of-\d{5}\.(safetensors|bin)$")


def is_piece(path: Path) -> bool:
    """Whether a file's name says that it is one of several, ``model-00001-of-00002.safetensors``."""
    return _PIECE.search(path.name) is not None


def read_sharded(index: Path) -> dict[str, Any]:
    """Open all files that an index names, memory-mapped.

    Args:
        index: ``model.safetensors.index.json``, ``pytorch_model.bin.index.json`` or one like them.

    Returns:
        Names and tensors, in the order of the index.

    Raises:
        ValueError: The index is damaged, names a file that is missing or outside its folder, or does not agree with
            what its files hold; the message names the tensors.
    """
    places = _places(index)
    held: dict[str, dict[str, Any]] = {}
    for file in sorted(set(places.values())):
        path = index.with_name(file)
        if not path.is_file():
            raise ValueError(f"The index {str(index)!r} names a file that is missing: {file!r}.")
        held[file] = read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)["state_dict"]
    missing = [f"{name} (not in {file})" for name, file in places.items() if name not in held[file]]
    unnamed = [f"{name} (in {file})" for file, own in held.items() for name in own if places.get(name) != file]
    for names, problem in ((missing, "names tensors that its files lack"), (unnamed, "does not name tensors")):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise ValueError(f"The index {str(index)!r} {problem}: {', '.join(names[:5])}{more}.")
    return {name: held[file][name] for name, file in places.items()}


def files_of_index(index: Path) -> list[Path]:
    """List the files that an index names.

    Raises:
        ValueError: The index is damaged, or names a file outside its folder.
    """
    return [index.with_name(file) for file in sorted(set(_places(index).values()))]


def _places(index: Path) -> dict[str, str]:
    try:
        places = read_json(index, _without_repeats)["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"The index {str(index)!r} cannot be read: {error}.") from error
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise ValueError(f"The index {str(index)!r} has no 'weight_map' of tensors' names to files' names.")
    for file in places.values():
        if not is_plain_name(file):
            raise ValueError(f"The index {str(index)!r} points outside its folder: {file!r}.")
    return places


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        name = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{name!r} is listed more than once")
    return result
