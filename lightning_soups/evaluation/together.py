"""The processes of one job end together: when one fails or dies, the others do not wait for it."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ParallelStrategy
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_soups.evaluation.companions import Companions, Failure, in_words

_SOON = 1.0  # seconds in which a process may notice by itself
_GRACE = 5.0  # seconds from then on, in which it may still end by itself
_EXIT_STATUS = 1


@contextmanager
def together(trainer: Trainer) -> Iterator[None]:
    """End this process soon after another one of the job has failed or died.

    A process that waits for another one inside a collective cannot be interrupted, and would wait for the timeout of
    the process group: half an hour with gloo. So a process that learns of a failure and does not leave the block within
    seconds says which process failed, and why, and exits with status 1. What happens after the block is left is
    nobody's concern: a Python session goes on.

    SIGTERM raises :class:`TerminatedError` in the block, because Lightning's own answer to it begins with a collective
    that the others do not know of.

    Args:
        trainer: The trainer, its processes connected; with a single one nothing is done.
    """
    strategy = trainer.strategy
    environment = strategy.cluster_environment if isinstance(strategy, ParallelStrategy) else None
    connected = torch.distributed.is_available() and torch.distributed.is_initialized()
    if trainer.world_size == 1 or environment is None or not connected:
        yield
        return
    vigil = _Vigil(trainer.global_rank)
    companions = Companions(
        trainer.global_rank, trainer.world_size, environment.main_address, strategy.broadcast, vigil.end_soon
    )
    if companions.missing:
        rank_zero_warn(
            f"The processes {companions.missing} cannot be reached: that one of them fails may be noticed only after"
            " the timeout of the process group."
        )
    error: BaseException | None = None
    try:
        with _ended_by_sigterm(companions):
            yield
    except BaseException as raised:
        error = raised
        if isinstance(raised, RuntimeError) and (failure := vigil.explanation(raised)):
            raise RuntimeError(str(failure)) from raised
        raise
    finally:
        vigil.over(error)
        companions.leave(error)


class TerminatedError(SystemExit):
    """SIGTERM has asked this process to end."""

    def __str__(self) -> str:
        return "asked to end by SIGTERM"


class _Vigil:
    """Ends this process when it does not end by itself after another one has."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._over = threading.Event()
        self._failed = threading.Event()
        self._failure: Failure | None = None
        self._own: str | None = None
        self._explained = False

    def end_soon(self, failure: Failure) -> None:
        """Another process has failed, or this one is asked to end; called in a thread of its own."""
        self._failure = failure
        self._failed.set()
        if self._over.wait(_SOON):
            if not self._explained and failure.rank != self._rank and self._own not in (None, failure.error):
                print(f"\n{failure}", file=sys.stderr, flush=True)
            return
        what = "" if failure.rank == self._rank else f"\nProcess {self._rank} cannot go on without it."
        print(f"\n{failure}{what} It ends within {_GRACE:.0f} seconds.", file=sys.stderr, flush=True)
        if not self._over.wait(_GRACE):
            sys.stdout.flush()
            os._exit(_EXIT_STATUS)

    def explanation(self, error: RuntimeError) -> Failure | None:
        """The failure of another process that is behind an error, as behind that of a collective; None for others."""
        self._failed.wait(_SOON)
        self._explained = self._failure is not None and self._failure.error != in_words(error)
        return self._failure if self._explained else None

    def over(self, error: BaseException | None) -> None:
        """This process has come to the end of its part."""
        self._own = None if error is None else in_words(error)
        self._over.set()


@contextmanager
def _ended_by_sigterm(companions: Companions) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _end)
    woken = signal.set_wakeup_fd(companions.fileno(), warn_on_full_buffer=False)
    if woken != -1:  # an event loop of this session's has its own
        signal.set_wakeup_fd(woken)
    try:
        yield
    finally:
        if woken == -1:
            signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise TerminatedError(128 + number)
