"""Weighted sums of checkpoints, exact to one rounding and tensor by tensor."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

StateDict = Mapping[str, Any]


def average(state_dicts: Sequence[StateDict], coefficients: Sequence[float]) -> dict[str, Any]:
    r"""Compute :math:`\theta = \sum_i \lambda_i \theta_i`, the weights of a soup.

    Floating-point tensors are summed in float64 (complex ones in complex128) and rounded once to the dtype of the
    first checkpoint, so half precision never overflows or drifts (Wortsman et al. 2022, arXiv:2203.05482, section 2,
    define the uniform case, :math:`\lambda_i = 1/N`). Memory beyond the result is one float64 tensor and one
    converted one, whatever N is, when the inputs are memory-mapped.

    Integer and bool tensors are counters, indices and masks and are never averaged, nor is what is no tensor (a
    module's extra state): where all checkpoints agree the value is kept; where they differ the whole value of the
    checkpoint with the largest coefficient is taken (the earliest of them in a tie). Tensors that share memory in every
    checkpoint share memory in the result.

    Args:
        state_dicts: N mappings with the same names and, name by name, the same shapes.
        coefficients: N finite numbers, :math:`\lambda_i`.

    Returns:
        A new state dict in the order of the first, on CPU.

    Raises:
        ValueError: Nothing to average, lengths that differ, a coefficient that is not finite, or names, shapes or
            kinds of dtype that differ; the message lists them.
    """
    if not state_dicts or len(state_dicts) != len(coefficients):
        raise ValueError(
            "Averaging needs one coefficient per checkpoint and at least one checkpoint, got"
            f" {len(state_dicts)} checkpoints and {len(coefficients)} coefficients."
        )
    if not all(map(math.isfinite, coefficients)):
        raise ValueError(f"Coefficients must be finite numbers, got {list(coefficients)}.")
    for index, other in enumerate(state_dicts[1:], start=1):
        if problems := differences(state_dicts[0], other):
            raise ValueError(f"Checkpoint 0 and checkpoint {index} do not fit together:\n" + "\n".join(problems))

    result: dict[str, Any] = {}
    computed: dict[tuple[object, ...], Tensor] = {}
    for name in state_dicts[0]:
        tensors = [state_dict[name] for state_dict in state_dicts]
        place = tuple(_place(tensor) for tensor in tensors)
        if place not in computed:
            computed[place] = _combine(tensors, coefficients)
        result[name] = computed[place]
    return result


def differences(first: StateDict, second: StateDict) -> list[str]:
    """Say, a line each, why two state dicts cannot be averaged.

    Args:
        first: A state dict.
        second: Another one.

    Returns:
        Lines that name the tensors and both shapes or dtypes; empty when the two fit together.
    """
    problems = [f"  {name}: only in the first" for name in first if name not in second]
    problems += [f"  {name}: only in the second" for name in second if name not in first]
    for name, tensor in first.items():
        if name not in second:
            continue
        other = second[name]
        if _kind(tensor) != _kind(other):
            kinds = (getattr(value, "dtype", "no tensor") for value in (tensor, other))
            problems.append(f"  {name}: dtype {' against '.join(map(str, kinds))}")
        elif isinstance(tensor, Tensor) and tensor.shape != other.shape:
            problems.append(f"  {name}: shape {tuple(tensor.shape)} against {tuple(other.shape)}")
    return problems


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


def _combine(tensors: Sequence[Any], coefficients: Sequence[float]) -> Any:
    first = tensors[0]
    if _kind(first) not in ("floating", "complex"):
        largest = max(range(len(tensors)), key=coefficients.__getitem__)
        chosen = tensors[largest]
        return chosen.detach().clone() if isinstance(chosen, Tensor) else chosen
    if len(tensors) == 1 and coefficients[0] == 1.0:
        return first.detach().clone()
    wide = torch.complex128 if first.is_complex() else torch.float64
    total = torch.zeros(first.shape, dtype=wide)
    for tensor, coefficient in zip(tensors, coefficients, strict=True):
        total.add_(tensor.detach().to(wide), alpha=coefficient)
    return total.to(first.dtype)
