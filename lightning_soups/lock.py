"""One cook at a time for each output."""

import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout
from lightning.pytorch.strategies import Strategy

from lightning_soups.durable import make_folder
from lightning_soups.paths import AnyPath


@contextmanager
def sole_writer(output: AnyPath) -> Iterator[None]:
    """Be the only process, on all machines that share the disk, that makes an output.

    The lock is the system's, on ``.<output>.lock``: it ends with the process, however that ends. Outputs at URLs have
    none, because stores of objects offer none.

    Args:
        output: A file or folder.

    Raises:
        ValueError: Another process is making it.
    """
    if not isinstance(output, Path):
        yield
        return
    path = output.with_name(f".{output.name}.lock")
    created = [folder for folder in path.parents if not folder.exists()]
    make_folder(path.parent)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"{str(output)!r} is being cooked at this moment, by {_holder(path)}. Wait until that is done, or give"
            " another `output`."
        ) from None
    except (OSError, NotImplementedError):  # a file system without locks
        yield
        return
    try:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        path.write_text(f"process {os.getpid()} on {platform.node()}, since {now}", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):  # Windows deletes no open file
            path.unlink()
        lock.release()
        with suppress(OSError):  # where something was made
            for folder in created:
                folder.rmdir()


@contextmanager
def on_rank_zero(strategy: Strategy, guard: AbstractContextManager[None]) -> Iterator[None]:
    """Enter a context on rank zero; every process must call this, and all raise when it cannot be entered.

    Raises:
        ValueError: It raised one on rank zero.
    """
    with ExitStack() as stack:
        problem: str | None = None
        if strategy.is_global_zero:
            try:
                stack.enter_context(guard)
            except ValueError as error:
                problem = str(error)
        problem = strategy.broadcast(problem)
        if problem is not None:
            raise ValueError(problem)
        yield


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") or "another process"
    except OSError:
        return "another process"
