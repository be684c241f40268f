"""Making sure that files, folders and their names are on the disk before anything is built on them.

A rename is atomic for whoever reads meanwhile, but what survives a power failure is another matter: the bytes of a
file do when the file has been synced, and its name does when the folder that the name is in has been.
"""

import ctypes
import errno
import os
import sys
from contextlib import suppress
from pathlib import Path

_UMASK = os.umask(0)
os.umask(_UMASK)  # there is no way to ask without setting it
# what file systems say that cannot sync folders, or do not let this user open them
_CANNOT_SYNC = {
    *(errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EISDIR),
    *(errno.EACCES, errno.EPERM),
}
_CANNOT_EXCHANGE = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM}
_HERE = -100  # AT_FDCWD: paths are relative to the working directory
_EXCHANGE = 2  # RENAME_EXCHANGE, https://man7.org/linux/man-pages/man2/rename.2.html


def sync_file(path: Path) -> None:
    """Bring a file's bytes to the disk; whoever may read new files may read it, whatever a library has made of that."""
    mode = 0o666 & ~_UMASK
    if path.stat().st_mode & 0o777 != mode:
        with suppress(PermissionError, NotImplementedError):  # of file systems that keep no modes
            path.chmod(mode)
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where that can be asked for: not on Windows, nor over some networks."""
    if os.name == "nt":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Bring a folder and all that is in it to the disk."""
    for path in sorted(folder.rglob("*"), reverse=True):  # a folder after what it holds
        if path.is_symlink():
            continue
        if path.is_file():
            sync_file(path)
        elif path.is_dir():
            sync_folder(path)
    sync_folder(folder)


def make_folder(folder: Path) -> None:
    """Create a folder, and those above it that are missing, and bring their names to the disk."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(exist_ok=True)  # others may be faster
        sync_folder(one.parent)
    if not missing and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))


def exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step.

    Returns:
        False when this system, or the file system, cannot do that. Linux can, on its own file systems.
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        return False
    if library.renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))
