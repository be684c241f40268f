"""Names that files give of other files beside them."""

from pathlib import PurePosixPath, PureWindowsPath

_LONGEST = 255  # bytes of a name, on every common file system


def is_plain_name(name: object) -> bool:
    """Whether something is the name of one file on any system, and cannot lead out of the folder that it is in.

    Args:
        name: What a file says, whatever it is.
    """
    if not isinstance(name, str) or name in ("", ".", "..") or not name.isprintable():
        return False  # control characters, the zero byte and halves of surrogate pairs are not printable
    short = len(name.encode()) <= _LONGEST
    return short and PurePosixPath(name).name == name and PureWindowsPath(name).name == name  # drives, both slashes
