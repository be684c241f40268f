"""Noticing that a file was changed while it is mapped into memory.

A mapped file that is truncated ends the process at once, with the signal SIGBUS and no message; one that is written
over gives a mixture of old and new bytes. Deleting it is harmless on a local disk, and so is replacing it by renaming:
what was mapped stays as it was.
"""

import os
from pathlib import Path
from typing import NamedTuple


class FileState(NamedTuple):
    """What changes when somebody writes into a file: its size in bytes, when it was written, its place on the disk."""

    size: int
    written: int
    device: int
    inode: int


def state_of(path: Path) -> FileState:
    """Look at a file, before it is mapped.

    Raises:
        FileNotFoundError: There is none.
    """
    stat = os.stat(path)
    return FileState(stat.st_size, stat.st_mtime_ns, stat.st_dev, stat.st_ino)


def check_unchanged(path: Path, opened: FileState) -> None:
    """Make sure that nobody has written into a file since it was opened; quick enough to be done before every use.

    Args:
        path: The file. It may have been deleted, or replaced by another file of that name.
        opened: What :func:`state_of` said then.

    Raises:
        ValueError: Somebody has; or the disk that it is on has gone.
    """
    try:
        now = state_of(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be read any more: {error.strerror}.") from None
    if (now.device, now.inode) == (opened.device, opened.inode) and now != opened:
        raise ValueError(
            f"{str(path)!r} was changed while it was being used: it had {opened.size} bytes and has {now.size}, last"
            " written later. Checkpoints must not be written over in place while they are read: write another file and"
            " rename it, as SoupCallback and Lightning do, and start again."
        )
