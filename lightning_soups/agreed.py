"""Work that one process may fail at, so that all fail together instead of waiting for it."""

from collections.abc import Callable
from typing import TypeVar

from lightning.pytorch.strategies import Strategy

_T = TypeVar("_T")


def agreed(strategy: Strategy, attempt: Callable[[], _T]) -> _T:
    """Do something on every process; when it fails on one, it fails on all.

    Every process must call this at the same point. What is attempted must not wait for the other processes, unless that
    ends when one of them fails.

    Args:
        strategy: Connects the processes.
        attempt: What to do.

    Returns:
        What this process's attempt returned.

    Raises:
        Exception: Whatever this process's attempt raised.
        RuntimeError: It succeeded here and failed elsewhere; the message says why.
    """
    failed: Exception | None = None
    try:
        result = attempt()
    except Exception as error:
        failed = error
    if strategy.reduce_boolean_decision(failed is None, all=True):
        return result
    first = strategy.broadcast(None if failed is None else f"{type(failed).__name__}: {failed}")
    if failed is not None:
        raise failed
    raise RuntimeError(f"Another process failed: {first or 'it says why'}")
