"""Signs of life: what lets one process notice that another, perhaps on another machine, was killed."""

import logging
import os
import time
from collections.abc import Callable, Mapping
from threading import Event, Thread
from types import TracebackType
from typing import Any

from lightning_soups.processes import is_alive, machine, started

_REFRESHED = 30.0  # seconds between two signs of life
_EXPIRES = 150.0  # seconds without one after which a process on another machine counts as killed
_log = logging.getLogger(__name__)


class Lease:
    """Says that this process is at work, again every 30 seconds until the block ends.

    Args:
        write: Stores the lease where other processes see it; called in a thread.
    """

    def __init__(self, write: Callable[[dict[str, Any]], object]) -> None:
        self._write = write
        self._ended = Event()
        self._thread = Thread(target=self._refresh, name="lightning-soups-lease", daemon=True)

    def __enter__(self) -> None:
        self._write(own_lease())
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _refresh(self) -> None:
        while not self._ended.wait(_REFRESHED):
            try:
                self._write(own_lease())
            except Exception as error:  # a server that is away for a minute must not end a fit of a day
                _log.warning("The storage cannot be reached for the moment: %s", error)


def own_lease() -> dict[str, Any]:
    """This process, now; what JSON holds."""
    return {"machine": machine(), "pid": os.getpid(), "started": started(), "seen": time.time()}


def has_ended(lease: Mapping[str, Any]) -> bool:
    """Whether the process of a lease is gone.

    One on this machine is gone when it does not run any more. Of one elsewhere only the signs of life are known, so it
    counts as gone 150 seconds after the last; clocks must agree better than that.
    """
    if lease["machine"] == machine() and (alive := is_alive(lease["pid"], lease["started"])) is not None:
        return not alive
    return has_expired(lease["seen"])


def has_expired(seen: float) -> bool:
    """Whether the last sign of life, in seconds since 1970, is too old."""
    return time.time() - seen > _EXPIRES
