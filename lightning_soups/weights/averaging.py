"""Weighted sums of checkpoints, exact to one rounding and tensor by tensor."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_soups.weights.chunks import Job, Release, combine
from lightning_soups.weights.kinds import refuse_odd
from lightning_soups.weights.pages import MappedPages
from lightning_soups.weights.reading import read_checkpoint

StateDict = Mapping[str, Any]

_MOST_LINES = 20  # of differences that are named one by one


def average(
    state_dicts: Sequence[StateDict],
    coefficients: Sequence[float],
    by_name: Mapping[str, Sequence[float]] | None = None,
    release: Release | None = None,
) -> dict[str, Any]:
    r"""Compute :math:`\theta = \sum_i \lambda_i \theta_i`, the weights of a soup.

    Floating-point tensors are summed in float64 (complex ones in complex128) and rounded once to the dtype of the
    first checkpoint, so half precision never overflows or drifts (Wortsman et al. 2022, arXiv:2203.05482, section 2,
    define the uniform case, :math:`\lambda_i = 1/N`). When all coefficients are :math:`1/N` the sum is plain and
    divided once: float64 sums of float32 numbers are exact in practice, so their order does not matter. Memory beyond
    the result is a few MiB a thread, whatever N is, besides the inputs; :func:`average_checkpoints` bounds those too.

    Integer and bool tensors are counters, indices and masks and are never averaged, nor is what is no tensor (a
    module's extra state): where all checkpoints agree the value is kept; where they differ the whole value of the
    checkpoint with the largest coefficient is taken (the earliest of them in a tie). Tensors that share memory in every
    checkpoint share memory in the result.

    Args:
        state_dicts: N mappings with the same names and, name by name, the same shapes.
        coefficients: N finite numbers, :math:`\lambda_i`.
        by_name: N finite numbers for each tensor that has coefficients of its own.
        release: Called with each piece of a tensor that has been read.

    Returns:
        A new state dict in the order of the first, on CPU.

    Raises:
        ValueError: Nothing to average, lengths that differ, a coefficient that is not finite, names, shapes or kinds of
            dtype that differ, or tensors that are no plain arrays of numbers (sparse, quantized, packed, without
            values); the message lists them.
    """
    return _average(state_dicts, coefficients, by_name or {}, release)


def write_average(
    out: Mapping[str, Tensor],
    state_dicts: Sequence[StateDict],
    coefficients: Sequence[float],
    by_name: Mapping[str, Sequence[float]] | None = None,
    device: torch.device | str = "cpu",
    release: Release | None = None,
) -> None:
    r"""Write what :func:`average` computes into tensors that exist: no memory for a result is needed.

    Args:
        out: Where to write, in place, on any device and in any dtype; it needs all names of the state dicts.
        state_dicts: See :func:`average`.
        coefficients: See :func:`average`.
        by_name: See :func:`average`.
        device: Where to compute; it must support float64.
        release: See :func:`average`.

    Raises:
        ValueError: See :func:`average`.
    """
    _average(state_dicts, coefficients, by_name or {}, release, out, device)


def average_checkpoints(
    paths: Sequence[str | os.PathLike[str]], coefficients: Sequence[float] | None = None
) -> dict[str, Any]:
    r"""Average checkpoint files of any number as :func:`average` does, in the memory of about one of them.

    The files are memory-mapped. On Linux what has been read is given back at once, so little more than the result is
    resident at a time; elsewhere it stays until the system needs the memory. The files are taken as they are: records,
    and with them hashes, are beyond this function, and NaN gives NaN. A :class:`~lightning_soups.Soup` checks both.

    Args:
        paths: N checkpoints of any kind with the same names and shapes; nothing in them is run
            (:func:`read_checkpoint`).
        coefficients: N finite numbers, :math:`\lambda_i`; None for the uniform :math:`1/N`.

    Returns:
        A new state dict in the order of the first, on CPU.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file is no checkpoint that can be read safely, or see :func:`average`.
    """
    state_dicts = [read_checkpoint(path)["state_dict"] for path in paths]
    if coefficients is None:
        coefficients = [1 / len(paths) for _ in paths]
    return _average(state_dicts, coefficients, {}, MappedPages(paths).release)


def _average(
    state_dicts: Sequence[StateDict],
    coefficients: Sequence[float],
    by_name: Mapping[str, Sequence[float]],
    release: Release | None = None,
    out: Mapping[str, Tensor] | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    _check(state_dicts, coefficients, by_name)
    count = len(state_dicts)
    uniform = not by_name and all(coefficient == 1 / count for coefficient in coefficients)
    result: dict[str, Any] = {}
    computed: dict[tuple[object, ...], Any] = {}
    jobs: list[Job] = []
    for name, first in state_dicts[0].items():
        values = [state_dict[name] for state_dict in state_dicts]
        own = by_name.get(name, coefficients)
        place = tuple(map(_place, values))
        if place not in computed:
            if _kind(first) not in ("floating", "complex"):
                value = values[max(range(count), key=own.__getitem__)]
                computed[place] = _copy(value) if out is None else _written(out[name], value)
            elif count == 1 and own[0] == 1.0:
                computed[place] = _copy(first) if out is None else _written(out[name], first)
            else:
                computed[place] = torch.empty(first.shape, dtype=first.dtype) if out is None else out[name]
                jobs.append(Job(computed[place], values, first.dtype, None if uniform else own))
        result[name] = computed[place]
    combine(jobs, divisor=count if uniform else 1, device=device, release=release)
    return result


def _check(
    state_dicts: Sequence[StateDict], coefficients: Sequence[float], by_name: Mapping[str, Sequence[float]]
) -> None:
    for numbers in (coefficients, *by_name.values()):
        if not state_dicts or len(state_dicts) != len(numbers):
            raise ValueError(
                "Averaging needs one coefficient per checkpoint and at least one checkpoint, got"
                f" {len(state_dicts)} checkpoints and {len(numbers)} coefficients."
            )
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"Coefficients must be finite numbers, got {list(numbers)}.")
    for index, other in enumerate(state_dicts):
        refuse_odd(other, f"Checkpoint {index}")
        if index and (problems := differences(state_dicts[0], other)):
            raise ValueError(f"Checkpoint 0 and checkpoint {index} do not fit together:\n" + "\n".join(problems))


def whole(state_dict: StateDict) -> StateDict:
    """Take all of a state dict, where a function that takes a part of one could stand."""
    return state_dict


def differences(first: StateDict, second: StateDict) -> list[str]:
    """Say, a line each, why two state dicts cannot be averaged.

    Args:
        first: A state dict.
        second: Another one.

    Returns:
        Lines that name the tensors and both shapes or dtypes; of very many, some and how many more there are. Empty
        when the two fit together.
    """
    misfits: list[str] = []
    for name, tensor in first.items():
        if name not in second:
            continue
        other = second[name]
        if _kind(tensor) != _kind(other):
            kinds = (getattr(value, "dtype", "no tensor") for value in (tensor, other))
            misfits.append(f"  {name}: dtype {' against '.join(map(str, kinds))}")
        elif isinstance(tensor, Tensor) and tensor.shape != other.shape:
            misfits.append(f"  {name}: shape {tuple(tensor.shape)} against {tuple(other.shape)}")
    groups = {
        "only in the first": [
            f"  {name}: only in the first{_shape(first[name])}" for name in first if name not in second
        ],
        "only in the second": [
            f"  {name}: only in the second{_shape(second[name])}" for name in second if name not in first
        ],
        "of other shapes or dtypes": misfits,
    }
    if sum(map(len, groups.values())) > _MOST_LINES:
        # a share for each kind of problem, so that a thousand missing names don't hide one wrong shape
        share = _MOST_LINES // sum(map(bool, groups.values()))
        for what, lines in groups.items():
            if len(lines) > share:
                lines[share:] = [f"  … and {len(lines) - share} more {what}"]
    return [line for lines in groups.values() for line in lines]


def layout(state_dict: StateDict) -> frozenset[tuple[str, object, str]]:
    """What has to be the same of two state dicts that can be averaged: names, shapes, and what kind of numbers."""
    return frozenset((name, getattr(value, "shape", None), _kind(value)) for name, value in state_dict.items())


def _shape(value: Any) -> str:
    return f", shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""


def _kind(tensor: Any) -> str:
    if not isinstance(tensor, Tensor):
        return "extra state"
    if tensor.is_complex():
        return "complex"
    return "floating" if tensor.is_floating_point() else str(tensor.dtype)


def _place(tensor: Any) -> object:
    if not isinstance(tensor, Tensor) or tensor.numel() == 0:
        return id(tensor)  # empty tensors all have address 0, which does not make them one
    return (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)


def _written(out: Tensor, value: Any) -> Tensor:
    with torch.no_grad():
        return out.copy_(value)


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
