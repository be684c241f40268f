"""Rounding float64 numbers once to dtypes of fewer bits."""

import torch
from torch import Tensor

# All numbers halfway between two of float16 end in 12 zero bits as float32; of other narrow dtypes, in more.
_LAST_BITS = (1 << 12) - 1


def narrow(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    r"""Convert to a dtype, to the nearest number that it has, ties to even.

    From float64 to anything narrower than float32 torch goes by float32, and rounds twice: :math:`1 + 2^{-11} +
    2^{-40}` becomes :math:`1 + 2^{-11}` and then, as a tie, 1 in float16, although :math:`1 + 2^{-10}` is nearer. So
    numbers that float32 takes for ties are moved by one of its bits to the side that they are on, which is rounding to
    odd where it matters (Boldo and Melquiond, When double rounding is odd, IMACS 2005).

    Args:
        numbers: Float64 or complex128.
        dtype: A floating-point dtype; for complex128 a complex one.

    Returns:
        A tensor of the same shape.
    """
    if dtype.itemsize >= (8 if dtype.is_complex else 4):
        return numbers.to(dtype)
    if dtype.is_complex:
        return torch.view_as_complex(narrow(torch.view_as_real(numbers), torch.float16).contiguous())
    rounded = numbers.to(torch.float32, memory_format=torch.contiguous_format)
    flat, exact = rounded.view(-1), numbers.reshape(-1)
    bits = flat.view(torch.int32)
    (at,) = ((bits & _LAST_BITS) == 0).logical_and_(flat != exact).nonzero(as_tuple=True)
    beyond = (exact[at].abs() - flat[at].double().abs()).nan_to_num().sign()
    bits[at] += beyond.to(torch.int32)
    return rounded.to(dtype)
