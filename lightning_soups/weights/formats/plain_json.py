"""JSON from files that somebody else may have written: bounded in size and depth, and all errors are of one kind."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

MOST_BYTES = 1 << 28  # of one file; objects in memory take about ten times as much
_DEEPEST = 100  # what is nested deeper makes Python's own functions fail far from here


class _Readable(Protocol):
    def stat(self) -> Any: ...
    def read_text(self, encoding: str) -> str: ...


def read_json(path: _Readable, hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Read a JSON file.

    Args:
        path: A ``Path``, or what has its methods.
        hook: See :func:`parse_json`.

    Returns:
        Its content: plain values, nested at most 100 deep, with numbers that fit a float.

    Raises:
        OSError: The file is not there or cannot be read.
        ValueError: It is larger than 256 MiB, no text, or see :func:`parse_json`; the message does not name the file.
    """
    if (size := path.stat().st_size) > MOST_BYTES:
        raise ValueError(f"it has {size} bytes, and at most {MOST_BYTES} are read")
    return parse_json(path.read_text(encoding="utf-8"), hook)


def parse_json(text: str, hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Read JSON.

    Args:
        text: At most 256 Mi characters.
        hook: What to make of objects, as ``object_pairs_hook`` of the standard library.

    Raises:
        ValueError: It is no JSON, nested deeper than 100, or has whole numbers that no float can hold.
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f"it has {len(text)} characters, and at most {MOST_BYTES} are read")
    try:
        content = json.loads(text, object_pairs_hook=hook, parse_int=_whole_number)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if _is_deeper(content, _DEEPEST):
        raise ValueError(f"it is nested deeper than {_DEEPEST}")
    return content


def _whole_number(digits: str) -> int:
    if len(digits) > 4000 or not math.isfinite(float(digits)):
        raise ValueError(f"it has a number of {len(digits)} digits")
    return int(digits)


def _is_deeper(content: Any, limit: int) -> bool:
    level = [content]
    for _ in range(limit):
        level = [
            item
            for one in level
            if isinstance(one, (Mapping, list, tuple))
            for item in (one.values() if isinstance(one, Mapping) else one)
        ]
        if not level:
            return False
    return any(isinstance(one, (Mapping, list, tuple)) for one in level)
