"""The document: what a soup's checkpoint holds beside its tensors, as JSON, for formats that hold only tensors."""

import json
import math
from collections.abc import Mapping
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_soups.paths import AnyPath
from lightning_soups.records import SOUP_KEY, SUMMED_KEY
from lightning_soups.weights.formats.plain_json import MOST_BYTES, parse_json

_REST = "checkpoint"  # hyperparameters, versions and the like, which a Lightning checkpoint needs
_LEFT_OUT = "left_out"
_FLOAT, _TUPLE = "__float__", "__tuple__"  # what JSON has no notation for


def to_json(checkpoint: Mapping[str, Any], **more: Any) -> str:
    """Write all of a soup's checkpoint but its tensors.

    Args:
        checkpoint: A soup's checkpoint.
        more: What the format adds of its own.

    Returns:
        Strict JSON. What a module's ``on_save_checkpoint`` or its hyperparameters hold that JSON cannot give back as
        it was (tensors, say) is left out and noted.
    """
    left_out: list[str] = []
    rest = {key: value for key, value in checkpoint.items() if key not in ("state_dict", SOUP_KEY, SUMMED_KEY)}
    if checkpoint.get(SUMMED_KEY) is not None:
        left_out.append(f"the adapter of the summed rank, which only a .ckpt file holds ({SUMMED_KEY})")
    content = {
        SOUP_KEY: _encode(checkpoint[SOUP_KEY], SOUP_KEY, left_out),
        _REST: _encode(rest, "", left_out),
        _LEFT_OUT: left_out,
        **more,
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def from_json(text: str, source: str) -> dict[str, Any]:
    """Read a document.

    Args:
        text: What :func:`to_json` returned.
        source: Where it comes from, for the error.

    Raises:
        ValueError: It is something else.
    """
    try:
        document = parse_json(text, lambda pairs: _decode(dict(pairs)))
    except (ValueError, TypeError) as error:  # the second where something else is written in place of a number
        raise ValueError(f"What {source!r} says of the soup cannot be read: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get(SOUP_KEY), dict):
        raise ValueError(f"{source!r} is not a soup: it has no {SOUP_KEY!r} entry.")
    if not isinstance(document.get(_REST, {}), dict):
        raise ValueError(f"What {source!r} says of the soup cannot be read: {_REST!r} is no JSON object.")
    return document


def read_document(path: AnyPath) -> dict[str, Any]:
    """Read a document from a file of its own.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: See :func:`from_json`.
    """
    if (size := path.stat().st_size) > MOST_BYTES:
        raise ValueError(f"What {str(path)!r} says of the soup cannot be read: it has {size} bytes.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"What {str(path)!r} says of the soup cannot be read: {error}") from error
    return from_json(text, str(path))


def to_checkpoint(document: Mapping[str, Any], state_dict: dict[str, Any], source: str) -> dict[str, Any]:
    """Put a checkpoint together again; a warning says what the format could not keep."""
    if left_out := document.get(_LEFT_OUT):
        rank_zero_warn(f"{source!r} does not hold all of the checkpoint that was saved; missing: {left_out}.")
    return {**document.get(_REST, {}), "state_dict": state_dict, SOUP_KEY: document[SOUP_KEY]}


def _encode(value: Any, name: str, left_out: list[str]) -> Any:
    """Values that JSON cannot give back as they were are left out of the mapping that they are in."""
    if isinstance(value, Mapping):
        kept = {}
        for key, item in value.items():
            where = f"{name}.{key}".lstrip(".")
            try:
                if not isinstance(key, str):
                    raise TypeError(where)
                kept[key] = _encode(item, where, left_out)
            except TypeError:
                left_out.append(where)
        return kept
    if isinstance(value, tuple):
        return {_TUPLE: [_encode(item, name, left_out) for item in value]}
    if isinstance(value, list):
        return [_encode(item, name, left_out) for item in value]
    if type(value) is float and not math.isfinite(value):
        return {_FLOAT: str(value)}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(name)


def _decode(entry: dict[str, Any]) -> Any:
    if entry.keys() == {_FLOAT}:
        return float(entry[_FLOAT])
    return tuple(entry[_TUPLE]) if entry.keys() == {_TUPLE} else entry
