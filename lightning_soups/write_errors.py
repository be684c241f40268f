"""One clear error for whatever keeps a file from being written, by this package or by libraries that write for it."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning_soups.paths import AnyPath

_GONE = {errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO}
_OF_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.ENAMETOOLONG, *_GONE}  # and of nothing else
_UNANSWERED = {errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH}
_HINTS = {
    errno.EDQUOT: "Your quota is used up: make room, or choose another place.",
    errno.EFBIG: "Files of this size are not allowed here: raise the limit (`ulimit -f`), or choose another place.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ENOENT: "Its folder has gone meanwhile.",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Choose a place that you may write to."),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "Raise the limit of open files (`ulimit -n`)."),
    **dict.fromkeys(_GONE | _UNANSWERED, "Its disk, or the server that it is mounted from, does not answer."),
}
_IN_RUST = re.compile(r"\(os error (\d+)\)")  # as safetensors says it


class WriteError(OSError):
    """A file or folder could not be written; what was there before is as it was.

    Args:
        message: Says which, why, and what to do.
        number: The system's number for the reason, :attr:`errno`; None for a URL, whose library has reasons of its own.
    """

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.errno = number


@contextmanager
def explained(path: AnyPath, *temporary: AnyPath) -> Iterator[None]:
    """Turn what the system or a library says when a disk cannot be written to into a :class:`WriteError`.

    Other errors pass, those in reading other files among them.

    Args:
        path: What is being written.
        temporary: Where that is being written, if it is somewhere else.
    """
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        number = _number(error, [path, *temporary])
        if number is None:
            raise
        message = f"{str(path)!r} cannot be written: {os.strerror(number)}. {_hint(number, path)}".rstrip()
    else:
        return
    raise WriteError(message, number) from None  # it says everything


@contextmanager
def explained_upload(url: AnyPath) -> Iterator[None]:
    """The same for a URL, whatever its library raises."""
    try:
        yield
    except Exception as error:
        raise WriteError(f"{str(url)!r} cannot be written: {type(error).__name__}: {error}") from error


def _number(error: Exception, own: list[AnyPath]) -> int | None:
    """The system's number for what went wrong in writing; None when it was something else."""
    if isinstance(error, OSError) and error.errno is not None and _is_about(error, own):
        return error.errno
    seen: BaseException | None = error
    while seen is not None:  # libraries raise errors of their own where they meet, or while they handle, the system's
        if isinstance(seen, OSError) and seen.errno in _OF_STORAGE and _is_about(seen, own):
            return seen.errno
        if (found := _IN_RUST.search(str(seen))) is not None and int(found[1]) in _OF_STORAGE:
            return int(found[1])
        seen = seen.__cause__ or seen.__context__
    return None


def _is_about(error: OSError, own: list[AnyPath]) -> bool:
    if error.filename is None:  # of a file that is open, or of a connection
        return error.errno in _OF_STORAGE
    named = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
    return any(named.startswith(str(path)) or named == str(path.parent) for path in own)


def _hint(number: int, path: AnyPath) -> str:
    if number != errno.ENOSPC:
        return _HINTS.get(number, "")
    places = [f"{_free(path.parent)} on its disk"] if isinstance(path, Path) else []
    temporary = Path(tempfile.gettempdir())  # where Lightning writes checkpoints first
    return f"There is {', '.join([*places, f'{_free(temporary)} in {str(temporary)!r}'])}. Make room and try again."


def _free(folder: Path) -> str:
    for one in (folder, *folder.parents):
        with suppress(OSError):
            return f"{shutil.disk_usage(one).free / 1e6:.1f} MB free"
    return "unknown space"
