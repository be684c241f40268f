"""Runs a function in a forked process, which may be killed; the parent has imported everything once."""

import os
import pickle
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.reliability.steps import Kill, Steps

_current: Steps | None = None


@dataclass(frozen=True)
class Outcome:
    """How a process ended.

    Args:
        value: What the function returned.
        error: The traceback of what it raised, or what else went wrong; empty when it returned or was killed as
            planned.
        killed: Whether it was killed as planned.
        steps: The steps that it made; unknown of one that was killed.
        seconds: How long it took.
    """

    value: Any = None
    error: str = ""
    killed: bool = False
    steps: list[str] = field(default_factory=list)
    seconds: float = 0.0


def step(name: str) -> None:
    """Tell the steps of this process of one more, if they are counted."""
    if _current is not None:
        _current.step(name)


def run(
    function: Callable[..., Any],
    *args: Any,
    root: Path | None = None,
    kill: Kill | None = None,
    limit: float = 180.0,
) -> Outcome:
    """Run a function in a forked process.

    Args:
        function: What to run; its value must be picklable.
        *args: For it.
        root: The folder in which steps are counted; None counts none.
        kill: When to kill the process.
        limit: Seconds after which it hangs, on a machine that is busy.

    Returns:
        How it ended.
    """
    source, sink = os.pipe()
    started = time.monotonic()
    pid = os.fork()
    if not pid:
        os.close(source)
        _child(function, args, root, kill, sink)
    os.close(sink)
    content = _receive(source, pid, kill, started + limit)
    _, status = os.waitpid(pid, 0)
    seconds = time.monotonic() - started
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGKILL and kill is not None and content is not None:
            return Outcome(killed=True, seconds=seconds)
        reason = "did not end in time" if content is None else f"died of {signal.Signals(number).name}"
        return Outcome(error=f"The process {reason}.", seconds=seconds)
    value, error, steps = pickle.loads(content or b"")
    return Outcome(value, error, steps=steps, seconds=seconds)


def _child(function: Callable[..., Any], args: Any, root: Path | None, kill: Kill | None, sink: int) -> None:
    global _current
    write = os.write
    value, error = None, ""
    try:
        if not os.environ.get("FAULTS_VERBOSE"):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.dup2(nowhere, sys.stderr.fileno())
        write(sink, b" ")
        if root is not None:
            _current = Steps(root, kill)
        value = function(*args)
    except BaseException:
        error = traceback.format_exc()
    steps = [] if _current is None else _current.names
    data = pickle.dumps((value, error, steps))
    with os.fdopen(sink, "wb") as file:
        file.write(data)
    os._exit(0)


def _receive(source: int, pid: int, kill: Kill | None, limit: float) -> bytes | None:
    """What a process sends until it ends; None when it takes too long and is killed for that."""
    chunks: list[bytes] = []
    with os.fdopen(source, "rb", buffering=0) as file:
        file.read(1)  # it runs
        at = time.monotonic() + kill.at if kill is not None and kill.how == "time" else None
        while True:
            until = limit if at is None else at
            ready, _, _ = select.select([file], [], [], max(0.0, until - time.monotonic()))
            if ready:
                if not (chunk := file.read(1 << 16)):
                    return b"".join(chunks)
                chunks.append(chunk)
            elif at is not None:
                os.kill(pid, signal.SIGKILL)
                at = None
            else:
                os.kill(pid, signal.SIGKILL)
                return None
