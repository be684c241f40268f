"""Where checkpoints lie in weight space: inner products, cosines and angles, in the memory of a few pieces."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from lightning_soups.weights.averaging import StateDict, _place, differences
from lightning_soups.weights.chunks import Release, pieces
from lightning_soups.weights.kinds import refuse_odd
from lightning_soups.weights.pages import MappedPages
from lightning_soups.weights.reading import read_checkpoint

# 8 MiB of float64 numbers, of all checkpoints together: more gains little, less loses time with pages and in Python.
_BLOCK = 1 << 20


def inner_products(
    state_dicts: Sequence[StateDict],
    origin: StateDict | None = None,
    names: Iterable[str] | None = None,
    release: Release | None = None,
) -> dict[str, Tensor]:
    r"""Compute :math:`\langle \theta_i - \theta_0, \theta_j - \theta_0 \rangle` of every two checkpoints, by tensor.

    Sums over names are inner products of whole models. Numbers are converted to float64 before anything is subtracted
    or multiplied, in pieces: memory beyond the result is a few MiB, whatever N is. Of complex tensors it is the real
    part of the Hermitian product, which is the inner product of their real and imaginary parts.

    Args:
        state_dicts: N mappings with the same names and, name by name, the same shapes.
        origin: :math:`\theta_0`, another such mapping; None for zero.
        names: Floating-point or complex tensors to measure; then only these must fit together. None for all of them.
        release: Called with each tensor's piece when it is not needed any more.

    Returns:
        By name, symmetric float64 matrices of shape (N, N) on CPU, in the order of the first state dict. Tensors that
        share memory in every checkpoint, the origin included, count once: only the first of them has a matrix.

    Raises:
        ValueError: No state dict, a name that is no floating-point or complex tensor, or names, shapes or kinds of
            dtype that differ; the message lists them.
    """
    if not state_dicts:
        raise ValueError("Inner products need at least one checkpoint.")
    everything = state_dicts if origin is None else [origin, *state_dicts]
    if names is not None:
        chosen = set(names)
        _refuse_others(chosen, state_dicts[0])
        everything = [{name: value for name, value in one.items() if name in chosen} for one in everything]
    for index, one in enumerate(everything):
        first, second = ("the origin", index - 1) if origin is not None else ("checkpoint 0", index)
        refuse_odd(one, "The origin" if second < 0 else f"Checkpoint {second}")
        if problems := differences(everything[0], one):
            raise ValueError(f"Checkpoint {second} does not fit {first}:\n" + "\n".join(problems))

    result: dict[str, Tensor] = {}
    seen: set[object] = set()
    buffer = torch.empty(max(_BLOCK, 2 * len(everything)), dtype=torch.float64)
    for name in (name for name in state_dicts[0] if name in everything[0]):
        tensors = [one[name] for one in everything]
        place = tuple(map(_place, tensors))
        if place in seen or not _is_measured(tensors[0]):
            continue
        seen.add(place)
        total = torch.zeros(len(state_dicts), len(state_dicts), dtype=torch.float64)
        for rows in _rows(tensors, release, buffer):
            moved = rows if origin is None else rows[1:].sub_(rows[0])
            total.addmm_(moved, moved.T)
        result[name] = (total + total.T) / 2  # a matrix product may round the two halves differently
    return result


def gram_of_checkpoints(
    paths: Sequence[str | os.PathLike[str]],
    origin: str | os.PathLike[str] | None = None,
    names: Iterable[str] | None = None,
) -> dict[str, Tensor]:
    r"""Compute the :func:`inner_products` of checkpoint files of any number, in memory that does not grow with it.

    The files are memory-mapped, and on Linux what has been read is given back at once.

    Args:
        paths: N checkpoints of any kind with the same names and shapes; nothing in them is run
            (:func:`read_checkpoint`).
        origin: The file of :math:`\theta_0`, for example of the weights that all were fine-tuned from; None for zero.
        names: Floating-point or complex tensors to measure; None for all of them.

    Returns:
        By name, symmetric float64 matrices of shape (N, N), as :func:`inner_products` does.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file is no checkpoint that can be read safely, or see :func:`inner_products`.
    """
    files = [*paths] if origin is None else [*paths, origin]
    state_dicts = [read_checkpoint(path)["state_dict"] for path in files]
    start = None if origin is None else state_dicts.pop()
    return inner_products(state_dicts, start, names, MappedPages(files).release)


def dots(
    direction: Mapping[str, Tensor], state_dicts: Sequence[StateDict], release: Release | None = None
) -> dict[str, Tensor]:
    r"""Compute :math:`\langle d, \theta_i \rangle` of a direction, such as a gradient, and every checkpoint, by tensor.

    In float64, in pieces, and of complex tensors the real part, as :func:`inner_products` has it. A gradient of weights
    that several names share belongs to one of those names only.

    Args:
        direction: Floating-point or complex tensors, :math:`d`, on any device.
        state_dicts: N mappings that have these names, with the same shapes.
        release: Called with each tensor's piece when it is not needed any more.

    Returns:
        For each name in ``direction`` a float64 vector of shape (N,) on CPU.

    Raises:
        ValueError: A state dict lacks a name, or shapes or kinds of dtype differ; the message lists them.
    """
    _refuse_others(direction, direction)
    for index, one in enumerate(state_dicts):
        measured = {name: one[name] for name in direction if name in one}
        refuse_odd(measured, f"Checkpoint {index}")
        if problems := differences(direction, measured):
            raise ValueError(f"Checkpoint {index} does not fit the direction:\n" + "\n".join(problems))
    buffer = torch.empty(max(_BLOCK, 2 * len(state_dicts) + 2), dtype=torch.float64)
    result: dict[str, Tensor] = {}
    for name, along in direction.items():
        result[name] = torch.zeros(len(state_dicts), dtype=torch.float64)
        for rows in _rows([along, *(one[name] for one in state_dicts)], release, buffer):
            result[name].addmv_(rows[1:], rows[0])
    return result


def cosines(gram: Tensor) -> Tensor:
    r"""Compute :math:`\langle u_i, u_j \rangle / (\|u_i\| \|u_j\|)` from inner products.

    Args:
        gram: Inner products of N vectors, shape (N, N).

    Returns:
        A float64 matrix of shape (N, N) within [-1, 1] and 1 on its diagonal; NaN for vectors of norm 0.

    Raises:
        ValueError: The matrix is not square.
    """
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise ValueError(f"Inner products make a square matrix, got the shape {tuple(gram.shape)}.")
    norms = gram.diagonal().double().sqrt()
    norms = norms.where(norms > 0, torch.nan)
    result = (gram / torch.outer(norms, norms)).clamp(-1, 1)
    result.diagonal().copy_(norms / norms)
    return result


def angles(gram: Tensor) -> Tensor:
    r"""Compute the angles between checkpoints as seen from their origin, in degrees.

    That is :math:`\varphi = \arccos \frac{\langle \theta_1 - \theta_0, \theta_2 - \theta_0 \rangle}{\|\theta_1 -
    \theta_0\| \|\theta_2 - \theta_0\|}` of Wortsman et al. 2022 (arXiv:2203.05482), section 3.2, where averaging two
    checkpoints gains more at larger angles. An arccosine cannot tell angles below some 1e-6 degrees from 0.

    Args:
        gram: Inner products of N vectors, shape (N, N).

    Returns:
        A float64 matrix of shape (N, N) within [0, 180]; see :func:`cosines` for what is NaN and what is refused.
    """
    return cosines(gram).arccos().rad2deg()


def _rows(tensors: Sequence[Tensor], release: Release | None, buffer: Tensor) -> Iterator[Tensor]:
    """Tensors of one shape as the rows of float64 matrices, piece by piece; each matrix overwrites the one before."""
    parts = 2 if tensors[0].is_complex() else 1
    limit = max(1, _BLOCK // (parts * len(tensors)))
    for members in pieces([tensor.detach() for tensor in tensors], limit):
        numbers = parts * members[0].numel()
        block = buffer[: len(members) * numbers].view(len(members), numbers)
        rows = torch.view_as_complex(block.view(len(members), numbers // 2, 2)) if parts == 2 else block
        for row, member in zip(rows, members, strict=True):
            row.view(member.shape).copy_(member)
            if release is not None:
                release(member)
        yield block


def _refuse_others(names: Iterable[str], state_dict: StateDict) -> None:
    if others := sorted(name for name in names if not _is_measured(state_dict.get(name))):
        raise ValueError(f"There are no floating-point or complex tensors of these names: {others}.")


def _is_measured(value: object) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
