"""Names that files can have on every system."""

import hashlib
import re
import unicodedata

_LONGEST_NAME, _SHORTENED_NAME = 200, 160  # bytes; most systems allow 255
# of Windows, whatever suffix they have: https://learn.microsoft.com/windows/win32/fileio/naming-a-file
_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in "123456789¹²³")}


def safe_name(text: str) -> str:
    """Make a string usable as a file name on Linux, macOS and Windows; letters of any script stay.

    The name is in Unicode's composed form, is none that Windows keeps for devices, and has at most 200 bytes, which
    leaves room for suffixes: of a longer one the beginning stays, and a hash tells it from others. A name that is safe
    stays as it is.
    """
    composed = unicodedata.normalize("NFC", text)
    name = re.sub("\0+", "_", "".join(char if _is_safe(char) else "\0" for char in composed)).strip("._") or "_"
    if len(name.encode()) > _LONGEST_NAME:
        short = name.encode()[:_SHORTENED_NAME].decode(errors="ignore").rstrip("._")
        name = f"{short}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"
    first, dot, rest = name.partition(".")
    return f"{first}_{dot}{rest}" if first.upper() in _DEVICES else name


def _is_safe(char: str) -> bool:
    """Letters with the marks that belong to them, digits, and a few signs."""
    return char.isalnum() or char in "_.=+-" or unicodedata.category(char).startswith("M")
