"""Jobs in child processes whose k-th call about the files of a folder fails, or is the last thing they do."""

import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning_soups.durable
import lightning_soups.files

# as https://docs.python.org/3/library/audit_events.html names them
_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.chmod", "os.utime", "os.listdir"}
REMOVALS = {"os.remove", "os.rmdir"}


class Child(NamedTuple):
    """What became of a child process.

    Args:
        status: 0 when its job was done, 1 when that raised an error, the negative number of the signal that ended it.
        calls: How many calls about the folder's files there were, unless it was killed.
        last: The call that failed, if one did.
        error: The class, text and traceback of what was raised.
    """

    status: int
    calls: int
    last: str
    error: tuple[str, str, str]


def run(
    job: Callable[[], Any],
    folder: Path,
    call: int = 0,
    number: int | None = None,
    largest: int | None = None,
) -> Child:
    """Run a job in a forked process.

    Args:
        job: What to do.
        folder: Calls about what is in it count.
        call: Which of them fails, from 1; 0 lets all be.
        number: With which number of the system's; None kills the process instead.
        largest: How many bytes a file may have.
    """
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(readable)
        result = _in_child(job, folder, call, number, largest)
        os.write(writable, json.dumps(result).encode())
        os._exit(result[0])
    os.close(writable)
    with os.fdopen(readable) as pipe:
        told = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not told:
        return Child(status, 0, "", ("", "", ""))
    status, calls, last, error = json.loads(told)
    return Child(status, calls, last, tuple(error))


def every_call(job: Callable[[], Any], folder: Path, number: int | None) -> Iterator[Child]:
    """Run a job again and again; each time the next call fails, until all are through."""
    call = 0
    while True:
        call += 1
        child = run(job, folder, call, number)
        yield child
        if child.status == 0 and child.calls < call:
            return


def _in_child(
    job: Callable[[], Any], folder: Path, call: int, number: int | None, largest: int | None
) -> tuple[int, int, str, tuple[str, str, str]]:
    calls, last = 0, ""

    def count(what: str, path: str) -> None:
        nonlocal calls, last
        calls += 1
        if calls == call:
            if number is None:
                os.kill(os.getpid(), signal.SIGKILL)
            last = what
            raise OSError(number, os.strerror(number), path or None)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in _EVENTS or not isinstance(args[0], (str, bytes, os.PathLike)):
            return
        path = os.fsdecode(args[0])
        if path.startswith(str(folder)):
            count(event, path)

    fsync, exchange = os.fsync, lightning_soups.durable.exchange

    def counted_fsync(descriptor: int) -> None:
        count("os.fsync", "")
        fsync(descriptor)

    def counted_exchange(one: Path, other: Path) -> bool:
        count("exchange", str(one))
        return exchange(one, other)

    os.fsync = counted_fsync
    if lightning_soups.files.exchange is exchange:
        lightning_soups.files.exchange = counted_exchange
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    if call:
        sys.addaudithook(hook)
    try:
        job()
    except BaseException as error:
        call = 0
        return 1, calls, last, (type(error).__name__, str(error), "".join(traceback.format_exception(error)))
    return 0, calls, last, ("", "", "")
