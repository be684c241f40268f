"""Against closed forms, and exact arithmetic on whole numbers."""

import math
from fractions import Fraction

import pytest
import torch

from lightning_soups.statistics import bootstrap_means, is_binary, mcnemar, percentile_interval


def outcomes(both: int, only_first: int, only_second: int, neither: int) -> tuple[torch.Tensor, torch.Tensor]:
    counts = [(1.0, 1.0, both), (1.0, 0.0, only_first), (0.0, 1.0, only_second), (0.0, 0.0, neither)]
    return tuple(torch.cat([torch.full((n,), pair[i]) for *pair, n in counts]).double() for i in (0, 1))


def exact_p(b: int, c: int) -> Fraction:
    tail = sum(math.comb(b + c, i) for i in range(min(b, c) + 1))
    return min(Fraction(1), Fraction(2 * tail, 2 ** (b + c)))


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (0, 5), (3, 3), (7, 8), (25, 6), (2, 61), (700, 633), (9, 4000)])
def test_mcnemar_is_the_exact_binomial_test(b: int, c: int) -> None:
    first, second = outcomes(11, b, c, 4)
    assert mcnemar(first, second) == pytest.approx(float(exact_p(b, c)), rel=1e-9)
    assert mcnemar(first, second) == mcnemar(second, first)


def test_mcnemar_refuses_what_is_not_right_or_wrong() -> None:
    first, second = outcomes(1, 1, 1, 1)
    with pytest.raises(ValueError, match=r"zeros and ones.*0\.5"):
        mcnemar(first, second / 2)
    with pytest.raises(ValueError, match="got 4 and 3 values"):
        mcnemar(first, second[:3])
    assert is_binary(first)
    assert not is_binary(first + 1)


def test_bootstrap_means_have_the_moments_of_the_bootstrap() -> None:
    """The mean of a resample has the mean of the sample and, exactly, its variance (by n, not n − 1) over n."""
    values = torch.randn(80, 3, generator=torch.Generator().manual_seed(0)).double() * torch.tensor([1, 5, 0.1]) + 2
    means = bootstrap_means(values, 20_000, seed=1)
    assert means.shape == (20_000, 3)
    error = (values.var(dim=0, correction=0) / 80).sqrt()
    torch.testing.assert_close(means.mean(dim=0), values.mean(dim=0), rtol=0, atol=4 * float(error.max()) / 20_000**0.5)
    torch.testing.assert_close(means.std(dim=0), error, rtol=0.03, atol=0)
    low, high = percentile_interval(means[:, 0])
    assert high - low == pytest.approx(2 * 1.96 * float(error[0]), rel=0.05)


def test_columns_are_drawn_together_and_a_seed_decides() -> None:
    values = torch.arange(7, dtype=torch.float64).repeat(2, 1).T
    means = bootstrap_means(values, 50, seed=3)
    assert torch.equal(means[:, 0], means[:, 1])
    assert torch.equal(means, bootstrap_means(values, 50, seed=3))
    assert not torch.equal(means, bootstrap_means(values, 50, seed=4))
    steps = means[:, 0] * 7
    torch.testing.assert_close(steps, steps.round())  # means of whole numbers, of 7 of them
    assert bootstrap_means(torch.full((9, 1), 0.25).double(), 20, seed=0).unique().tolist() == [0.25]


def test_many_samples_are_drawn_in_blocks() -> None:
    values = torch.ones(3_000_000, 1).double()
    assert bootstrap_means(values, 3, seed=0).flatten().tolist() == pytest.approx([1, 1, 1])
    with pytest.raises(ValueError, match=r"one or more samples.*\(0, 2\)"):
        bootstrap_means(torch.ones(0, 2), 3, seed=0)


def test_a_percentile_interval_holds_the_level() -> None:
    values = torch.arange(1001, dtype=torch.float64)
    assert percentile_interval(values) == pytest.approx((25, 975))
    assert percentile_interval(values, level=0.5) == pytest.approx((250, 750))
