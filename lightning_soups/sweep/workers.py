"""Several workers of one sweep on this machine: the same command, started again for each."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from threading import Event, Thread
from types import FrameType
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import ArgsType

_FIRST = "LIGHTNING_SOUPS_SWEEP_FIRST"  # set for workers: how many trials there were when their sweep was started
_ONE_DEVICE = ("auto", -1, "-1", 1, "1", [0], "0,")
_GRACE = 20  # seconds that workers get to end a batch and to hand their trial back


def first_of_parent() -> int | None:
    """In a worker that :func:`run_workers` started, how many trials there were; None in any other process."""
    first = os.environ.get(_FIRST)
    return None if first is None else int(first)


def own_command(arguments: ArgsType) -> list[str]:
    """The command that started this process, with Python's own options.

    Args:
        arguments: What the command line was given instead of that of this process; None if nothing.

    Raises:
        MisconfigurationException: There is none that would do the same again: a script passes other arguments, or
            there is no script.
    """
    given = sys.argv[1:]
    command = [sys.executable, *sys.orig_argv[1:]]
    if arguments not in (None, given) or len(command) < 2 or command[len(command) - len(given) :] != given:
        raise MisconfigurationException(
            "`workers` starts the command line of this process again, but its arguments did not come from there. Start"
            " the sweep from a shell, or several times with `workers: 1`: they share it."
        )
    return command


def worker_environments(workers: int, accelerator: Any, devices: Any) -> list[dict[str, str]]:
    """Give every worker a GPU of its own, if the trainer would use any, and its share of the processor's cores.

    Args:
        workers: How many.
        accelerator: The trainer's argument.
        devices: The trainer's argument.

    Returns:
        For each worker, the environment variables to add.

    Raises:
        MisconfigurationException: There are too few GPUs, or a trainer asks for more than its worker has.
    """
    cores = max(1, (os.cpu_count() or 1) // workers)
    shared = {"PYTHONUNBUFFERED": "1"}
    if "OMP_NUM_THREADS" not in os.environ:
        shared["OMP_NUM_THREADS"] = str(cores)
    count = torch.cuda.device_count() if accelerator in ("auto", "gpu", "cuda") else 0
    if count == 0:
        return [dict(shared) for _ in range(workers)]
    if workers > count:
        raise MisconfigurationException(
            f"`workers` is {workers}, but this machine shows {count} GPUs and every worker gets one of its own. Use"
            f" `workers: {count}`, or start the sweep several times: workers that were started apart share a GPU."
        )
    if devices not in _ONE_DEVICE:
        raise MisconfigurationException(
            f"Each of the {workers} workers gets one GPU, but trainer.devices is {devices!r}. Use trainer.devices=1."
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",") if visible else [str(number) for number in range(count)]
    return [{**shared, "CUDA_VISIBLE_DEVICES": name.strip()} for name in names[:workers]]


def run_workers(
    command: Sequence[str], environments: Sequence[Mapping[str, str]], first: int, say: Callable[[str], None]
) -> None:
    """Run workers until all have ended; each line that one prints is said with the worker's number before it.

    A worker that dies is reported and the others go on. An interrupt, or SIGTERM, ends all.

    Args:
        command: Starts one.
        environments: For each worker, the environment variables to add.
        first: How many trials there are.
        say: Prints a line; called from several threads.
    """
    workers: list[subprocess.Popen[bytes]] = []
    readers: list[Thread] = []
    stopping = Event()
    try:
        with _terminating():
            for number, environment in enumerate(environments, start=1):
                worker = subprocess.Popen(
                    command,
                    env={**os.environ, **environment, _FIRST: str(first)},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # a terminal interrupts this process only, which tells them once
                )
                workers.append(worker)
                readers.append(Thread(target=_follow, args=(worker, number, say, stopping), daemon=True))
                readers[-1].start()
            for worker in workers:
                worker.wait()
            _read_to_the_end(readers)
    finally:
        stopping.set()
        _stop(workers)
        _read_to_the_end(readers)


def _follow(worker: "subprocess.Popen[bytes]", number: int, say: Callable[[str], None], stopping: Event) -> None:
    assert worker.stdout is not None
    for line in TextIOWrapper(worker.stdout, errors="replace", newline="\n"):
        shown = line.rstrip("\r\n").rpartition("\r")[2]  # of a progress bar its last state
        if shown.strip():
            say(f"worker {number} | {shown}")
    if (code := worker.wait()) and not stopping.is_set():
        how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
        say(f"worker {number} {how}; the others go on")


def _read_to_the_end(readers: Sequence[Thread]) -> None:
    for reader in readers:
        reader.join(timeout=5)  # a process that a worker left behind may hold its output open


def _stop(workers: "Sequence[subprocess.Popen[bytes]]") -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.terminate()  # an interrupt would be ignored where the shell started this process in the background
    for worker in workers:
        try:
            worker.wait(timeout=_GRACE)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


@contextmanager
def _terminating() -> Iterator[None]:
    """Let SIGTERM end the block as an interrupt does, instead of leaving the workers alone."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
