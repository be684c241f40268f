"""Who runs a trial, and whether they still do: what lets one worker notice that another was killed."""

import logging
import os
import time
from collections.abc import Callable
from threading import Event, Thread
from types import TracebackType
from typing import Any

from optuna.trial import FrozenTrial

from lightning_soups.processes import is_alive, machine, started

WORKER = "worker"  # the trial attribute that holds a lease
_REFRESHED = 30.0  # seconds between two signs of life
_EXPIRES = 150.0  # seconds without one after which a worker on another machine counts as killed
_log = logging.getLogger(__name__)


class Lease:
    """Says that this process runs a trial, again every 30 seconds until the block ends.

    Args:
        write: Stores the lease where other workers see it; called in a thread.
    """

    def __init__(self, write: Callable[[dict[str, Any]], None]) -> None:
        self._write = write
        self._ended = Event()
        self._thread = Thread(target=self._refresh, name="lease", daemon=True)

    def __enter__(self) -> None:
        self._write(_own_lease())
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _refresh(self) -> None:
        while not self._ended.wait(_REFRESHED):
            try:
                self._write(_own_lease())
            except Exception as error:  # a server that is away for a minute must not end a fit of a day
                _log.warning("The sweep's storage cannot be reached for the moment: %s", error)


def is_lost(trial: FrozenTrial) -> bool:
    """Whether the worker of a running trial is gone.

    A worker on this machine is gone when its process is. Of one elsewhere only the signs of life are known, so it
    counts as gone 150 seconds after the last; clocks must agree better than that. So does a trial without a lease.
    """
    lease = trial.user_attrs.get(WORKER)
    if lease is None:
        assert trial.datetime_start is not None
        return time.time() - trial.datetime_start.timestamp() > _EXPIRES
    if lease["machine"] == machine() and (alive := is_alive(lease["pid"], lease["started"])) is not None:
        return not alive
    return bool(time.time() - lease["seen"] > _EXPIRES)


def _own_lease() -> dict[str, Any]:
    return {"machine": machine(), "pid": os.getpid(), "started": started(), "seen": time.time()}
