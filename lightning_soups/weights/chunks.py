"""The one kernel of all averages: float64 sums in pieces that stay in the processor's cache."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_soups.weights.rounding import narrow

Release = Callable[[Tensor], None]

# Two times 65536 float64 numbers are 1 MiB. Smaller pieces lose time in Python, larger ones fall out of the cache.
_PIECE = 1 << 16
_PIECE_ON_ACCELERATOR = 1 << 22
_NUMBERS_PER_TASK = 1 << 21


class Job(NamedTuple):
    """One tensor to compute: rounded to ``dtype``, then copied into ``out``. No coefficients make a plain sum."""

    out: Tensor
    members: Sequence[Tensor]
    dtype: torch.dtype
    coefficients: Sequence[float] | None = None


def wide(dtype: torch.dtype) -> torch.dtype:
    """Say in which dtype numbers of a floating-point or complex dtype are summed."""
    return torch.complex128 if dtype.is_complex else torch.float64


def combine(
    jobs: Iterable[Job],
    divisor: int = 1,
    device: torch.device | str = "cpu",
    release: Release | None = None,
) -> None:
    r"""Write :math:`\sum_i \lambda_i \theta_i / d` into every job's ``out``, piece by piece.

    On CPU the pieces are shared out to as many threads as torch uses, each of which computes alone: one team of
    threads a piece would spend its time waiting, above all on a busy machine.

    Args:
        jobs: What to compute. All members of a job and its ``out`` have one shape; ``out`` is written in place.
        divisor: :math:`d`, applied to the sum.
        device: Where to compute; it must support float64.
        release: Called with each member's piece when it is not needed any more.
    """
    device = torch.device(device)
    jobs = list(jobs)
    # the more members, the smaller a piece: what is in use at one time must not grow with their number
    widest = max((len(job.members) for job in jobs), default=1)
    limit = min(_PIECE, max(_PIECE >> 4, _NUMBERS_PER_TASK // widest))
    tasks = _tasks(jobs, limit if device.type == "cpu" else _PIECE_ON_ACCELERATOR)
    lock = Lock()

    def work() -> None:
        buffers: dict[torch.dtype, Tensor] = {}  # fresh memory for each piece would cost more than the sums
        while True:
            with lock:
                task = next(tasks, ())
            if not task:
                return
            with torch.inference_mode():  # of each thread; it may write to inference tensors and to others
                for piece in task:
                    needed = 2 * piece.out.numel()
                    dtype = wide(piece.dtype)
                    if dtype not in buffers or buffers[dtype].numel() < needed:
                        buffers[dtype] = torch.empty(needed, dtype=dtype, device=device)
                    _combine_piece(piece, divisor, buffers[dtype], release)

    threads = torch.get_num_threads()
    numbers = sum(job.out.numel() * len(job.members) for job in jobs)
    small = numbers <= max(_NUMBERS_PER_TASK, len(jobs) * _PIECE)  # threads would wait for Python's lock
    try:
        if small or threads == 1 or device.type != "cpu":
            torch.set_num_threads(1)
            work()
            return
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for finished in [pool.submit(work) for _ in range(threads)]:
                finished.result()
    finally:
        torch.set_num_threads(threads)  # also what threads started later begin with


def _tasks(jobs: Iterable[Job], limit: int) -> Iterator[list[Job]]:
    """Pieces, gathered so that many small tensors cost no more than one large one."""
    task: list[Job] = []
    numbers = 0
    for job in jobs:
        for out, *members in pieces([job.out.detach(), *(member.detach() for member in job.members)], limit):
            task.append(Job(out, members, job.dtype, job.coefficients))
            numbers += out.numel() * len(members)
            if numbers >= _NUMBERS_PER_TASK or len(task) >= 64:
                yield task
                task, numbers = [], 0
    if task:
        yield task


def pieces(tensors: Sequence[Tensor], limit: int) -> Iterator[Sequence[Tensor]]:
    """Cut tensors of one shape alike into views of at most ``limit`` numbers, whatever their strides; one at a time."""
    numbers = tensors[0].numel()
    if numbers <= limit:
        yield tensors
        return
    if all(tensor.is_contiguous() for tensor in tensors):
        tensors = [tensor.view(-1) for tensor in tensors]
    length = tensors[0].shape[0]
    step = max(1, limit * length // numbers)
    for start in range(0, length, step):
        part = [tensor[start : start + step] for tensor in tensors]
        yield from [part] if part[0].numel() <= limit else pieces([tensor[0] for tensor in part], limit)


def _combine_piece(piece: Job, divisor: int, buffer: Tensor, release: Release | None) -> None:
    shape, numbers = piece.out.shape, piece.out.numel()
    total, term = buffer[: 2 * numbers].view(2, *shape).unbind(0)
    for index, member in enumerate(piece.members):
        target = term if index else total
        target.copy_(member)
        if release is not None:
            release(member)
        if piece.coefficients is not None:
            target.mul_(piece.coefficients[index])
        if index:
            total.add_(term)
    if divisor != 1:
        total.div_(divisor)
    piece.out.copy_(narrow(total, piece.dtype))
