"""The lines of a journal: each has the hash of its text, so that one which was torn or damaged counts as not there."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_soups.paths import AnyPath

_CHECK = 16  # hexadecimal digits of a hash


def written(line: Mapping[str, Any]) -> bytes:
    """A line as it is in the file, with the hash of its text."""
    text = json.dumps(line)
    return f"{digest(text)} {text}\n".encode()


def read_lines(path: AnyPath) -> list[dict[str, Any]]:
    """Read the lines that are whole; nothing when there is no such file."""
    try:
        written = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        rank_zero_warn(f"The journal {str(path)!r} of an earlier cook cannot be read, so nothing is resumed: {error}")
        return []
    lines = []
    for one in written:
        check, _, text = one.partition(b" ")
        if check.decode("ascii", "replace") == hashlib.sha256(text).hexdigest()[:_CHECK]:
            with suppress(ValueError, RecursionError):  # nothing that a journal holds
                lines.append(json.loads(text))
    return [line for line in lines if isinstance(line, dict)]


def read_states(path: AnyPath, context: str) -> dict[str, Any]:
    """What recipes saved of themselves in a context; nothing when there is no such file, or it is of another one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    of_this = isinstance(content, dict) and content.get("context") == context
    states = content.get("states") if of_this else None
    return states if isinstance(states, dict) else {}


def digest(text: str) -> str:
    """A short name for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:_CHECK]
