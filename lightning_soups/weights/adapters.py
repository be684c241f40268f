r"""LoRA adapters: the updates that their factors stand for, and sums of updates, exact to one rounding.

An adapter of rank r changes a weight by :math:`\Delta W = s B A` (Hu et al. 2021, arXiv:2106.09685, section 4.1). Many
adapters are averaged by their updates: the mean of the products is not the product of the means.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Factors(NamedTuple):
    """One layer's update in factors.

    Args:
        a: The factor next to the input, shape (rank, in) or (rank, in, *kernel); of an embedding (rank, rows).
        b: The factor next to the output, shape (out, rank) or (out, rank, 1, ...); of an embedding (features, rank).
        scaling: What their product is multiplied by.
        embedding: Whether the layer is an embedding, whose weight has the shape (rows, features).
    """

    a: Tensor
    b: Tensor
    scaling: float
    embedding: bool = False


def update_shape(factors: Factors, transposed: bool = False) -> tuple[int, ...]:
    """The shape of :func:`update`.

    Raises:
        ValueError: The two factors do not fit each other.
    """
    a, b = factors.a.shape, factors.b.shape
    if len(a) < 2 or len(b) < 2 or a[0] != b[1] or any(size != 1 for size in b[2:]):
        raise ValueError(f"Factors of the shapes A {tuple(a)} and B {tuple(b)} do not make an update.")
    shape = (b[0], *a[1:])
    return shape[::-1] if transposed or factors.embedding else shape


def update(factors: Factors, transposed: bool = False) -> Tensor:
    r"""Compute :math:`\Delta W = s B A`.

    Args:
        factors: Of one layer.
        transposed: Whether the layer stores its weight as (in, out), as the Conv1D of GPT-2 does (``fan_in_fan_out``).

    Returns:
        A float64 tensor of the layer's shape, (out, in) or (out, in, *kernel), transposed if so; on the device of A.

    Raises:
        ValueError: The two factors do not fit each other.
    """
    zero = torch.zeros((), dtype=torch.float64, device=factors.a.device)
    return _added(zero.expand(update_shape(factors, transposed)).clone(), [factors], [1.0], transposed)


def merged(
    base: Tensor,
    factors: Sequence[Factors],
    coefficients: Sequence[float],
    transposed: bool = False,
    device: torch.device | str = "cpu",
) -> Tensor:
    r"""Compute :math:`W_0 + \sum_i \lambda_i \Delta W_i`, summed in float64 and rounded once to the dtype of the base.

    Besides the result it takes the memory of one float64 tensor of its size.

    Args:
        base: :math:`W_0`, floating-point.
        factors: N updates, of any ranks.
        coefficients: N numbers, :math:`\lambda_i`.
        transposed: See :func:`update`.
        device: Where to compute; it must support float64.

    Returns:
        A new tensor like the base, on ``device``.

    Raises:
        ValueError: An update has another shape than the base.
    """
    for one in factors:
        if (shape := update_shape(one, transposed)) != tuple(base.shape):
            raise ValueError(f"An update has the shape {shape} and the weight that it adapts {tuple(base.shape)}.")
    total = base.detach().to(device).to(torch.float64, copy=True)
    return _added(total, factors, coefficients, transposed).to(base.dtype)


def summed_adapter(factors: Sequence[Factors], coefficients: Sequence[float]) -> Factors:
    r"""Write :math:`\sum_i \lambda_i \Delta W_i` as one adapter: its rank is the sum of the ranks, its scaling 1.

    The A are stacked; the B are put side by side, each times :math:`\lambda_i s_i`, which is rounded once, to float32
    at least: half precision could not hold it as exactly as the parts.

    Args:
        factors: N updates of one layer, of any ranks; at least one.
        coefficients: N numbers, :math:`\lambda_i`.

    Raises:
        ValueError: Nothing to sum, or shapes that differ in more than the rank.
    """
    if not factors or len(factors) != len(coefficients):
        raise ValueError(f"A sum needs one coefficient per update, got {len(coefficients)} for {len(factors)}.")
    if len(shapes := {update_shape(one) for one in factors}) > 1:
        raise ValueError(f"Updates of the shapes {sorted(shapes)} cannot be summed.")
    dtype = torch.float32
    for one in factors:
        dtype = torch.promote_types(torch.promote_types(one.a.dtype, one.b.dtype), dtype)
    scaled = [
        one.b.detach().double() * (coefficient * one.scaling)
        for one, coefficient in zip(factors, coefficients, strict=True)
    ]
    a = torch.cat([one.a.detach().to(dtype) for one in factors])
    return Factors(a, torch.cat(scaled, dim=1).to(dtype), 1.0, factors[0].embedding)


def _added(total: Tensor, factors: Sequence[Factors], coefficients: Sequence[float], transposed: bool) -> Tensor:
    with torch.no_grad():
        for one, coefficient in zip(factors, coefficients, strict=True):
            a, b = (factor.detach().to(total.device, torch.float64).flatten(1) for factor in (one.a, one.b))
            left, right = (a.T, b.T) if transposed or one.embedding else (b, a)
            flat = total.view(left.shape[0], right.shape[1])
            flat.addmm_(left, right, alpha=coefficient * one.scaling)
    return total
