"""Runs each part of a benchmark in a process of its own, and says what it ran on and how much memory it took."""

import logging
import os
import platform
import resource
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, set_start_method
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def run_alone(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a new process. The function must be importable, since nothing is inherited."""
    # by default OpenMP threads spin while they wait, and fight with decoding workers over the cores
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_start) as process:
        return process.submit(function, *args, **kwargs).result()


def _start() -> None:
    # a spawned process spawns its own: decoding workers would take seconds to start where they are usually forked
    set_start_method(None, force=True)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


def peak_memory(accelerator: str) -> dict[str, int]:
    """The most memory that this process ever used, in bytes: main memory, and the accelerator's."""
    # Linux hands the parent's peak down to a new process, so a parent must stay small for this to mean anything
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"peak_memory_bytes": unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
    if accelerator == "gpu":
        import torch

        peak["peak_accelerator_memory_bytes"] = torch.cuda.max_memory_allocated()
    return peak


def machine(accelerator: str) -> dict[str, Any]:
    """What the figures depend on; call it in a process of its own, since it wakes the accelerator."""
    import torch

    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if accelerator == "gpu" else "cpu",
        "threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
