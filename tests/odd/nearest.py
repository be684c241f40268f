"""Rounding by table: an independent reference for every dtype of at most 16 bits."""

import math
from fractions import Fraction

import torch
from torch import Tensor


def values_of(dtype: torch.dtype) -> Tensor:
    """All finite numbers of a dtype, float64, ascending; of the two zeros the positive one."""
    patterns = torch.arange(1 << (8 * dtype.itemsize), dtype=torch.int32)
    numbers = patterns.to(torch.uint8 if dtype.itemsize == 1 else torch.int16).view(dtype).double()
    return numbers[numbers.isfinite() & ~((numbers == 0) & numbers.signbit())].sort().values


def nearest(exact: Fraction, values: Tensor, dtype: torch.dtype) -> float:
    """The nearest of some numbers, which the exact one is between; in a tie the one whose last bit is 0."""
    index = int(torch.searchsorted(values, torch.tensor(float(exact), dtype=torch.float64)))
    around = values[max(0, index - 2) : index + 2]
    distances = [abs(Fraction(value) - exact) for value in around.tolist()]
    best = [value for value, distance in zip(around, distances, strict=True) if distance == min(distances)]
    if len(best) > 1:
        integers = torch.uint8 if dtype.itemsize == 1 else torch.int16
        best = [value for value in best if int(value.to(dtype).reshape(1).view(integers)) % 2 == 0]
    (found,) = best
    return float(found)


def rounded(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float64 numbers to a dtype, one by one."""
    values = values_of(dtype)
    numbers = [nearest(Fraction(value), values, dtype) if math.isfinite(value) else value for value in exact.tolist()]
    return torch.tensor(numbers, dtype=torch.float64)
