"""Which machine this is, and whether a process on it still runs."""

import os
import platform
import uuid
from functools import cache
from pathlib import Path

import psutil

_SAME = 1.0  # seconds by which two readings of one process's start may differ


@cache
def machine() -> str:
    """Where process numbers mean the same: a host since it was started, and on Linux the container."""
    boot, numbers = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if boot.exists() and numbers.exists():
        return " ".join([platform.node(), boot.read_text().strip(), os.readlink(numbers)])
    return f"{platform.node()} {uuid.getnode():x}"


def started() -> float:
    """When this process was started, in seconds since 1970."""
    return float(psutil.Process().create_time())


def is_alive(pid: int, since: float | None = None) -> bool | None:
    """Whether a process on this machine still runs.

    Args:
        pid: Its number.
        since: When it was started, where that is known: numbers are given anew to other processes.

    Returns:
        False when there is no such process, or nothing of it but its exit code; True when it runs; None when a process
        with that number runs, which may be another one.
    """
    if not _number_is_taken(pid):
        return False
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return True if since is not None and abs(process.create_time() - since) < _SAME else None
    except psutil.Error:  # it has just ended, or is another user's that the system hides
        return None if _number_is_taken(pid) else False


def _number_is_taken(pid: int) -> bool:
    if os.name != "posix":  # where signal 0 ends a process instead of asking for it
        return bool(psutil.pid_exists(pid))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True
