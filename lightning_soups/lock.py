"""One cook at a time for each output."""

import json
import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from lightning.pytorch.strategies import Strategy
from upath import UPath

from lightning_soups.durable import make_folder
from lightning_soups.lease import Lease, has_ended, own_lease
from lightning_soups.paths import AnyPath, claim_object, fresh


@contextmanager
def sole_writer(output: AnyPath) -> Iterator[None]:
    """Be the only process, on all machines that share the disk, that makes an output.

    The lock is the system's, on ``.<output>.lock``: it ends with the process, however that ends. Beside an output at a
    URL it is an object of that name, which says every 30 seconds that its process is at work.

    Args:
        output: A file or folder.

    Raises:
        ValueError: Another process is making it.
    """
    lock = output.with_name(f".{output.name}.lock")
    with _locked_file(output, lock) if isinstance(lock, Path) else _locked_object(output, lock):
        yield


@contextmanager
def _locked_file(output: AnyPath, path: Path) -> Iterator[None]:
    created = [folder for folder in path.parents if not folder.exists()]
    make_folder(path.parent)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise _taken(output, _holder(path)) from None
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
def _locked_object(output: AnyPath, path: UPath) -> Iterator[None]:
    if not claim_object(path, json.dumps(own_lease()).encode()):
        holder = _lease_at(path)
        if holder is not None and not has_ended(holder):
            raise _taken(output, f"process {holder['pid']} on {holder['machine'].split()[0]}")
    try:
        with Lease(lambda lease: path.write_text(json.dumps(lease))):
            yield
    finally:
        path.unlink(missing_ok=True)


def _lease_at(path: UPath) -> dict[str, Any] | None:
    """Who holds a lock; None when nobody does, any more."""
    try:
        lease = json.loads(fresh(path).read_text())
    except (FileNotFoundError, ValueError):
        return None
    kinds = {"machine": str, "pid": int, "started": float, "seen": float}
    valid = isinstance(lease, dict) and all(isinstance(lease.get(key), kind) for key, kind in kinds.items())
    return lease if valid else None


def _taken(output: AnyPath, holder: str) -> ValueError:
    return ValueError(
        f"{str(output)!r} is being cooked at this moment, by {holder}. Wait until that is done, or give another"
        " `output`."
    )


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
