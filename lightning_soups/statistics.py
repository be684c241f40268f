"""Is a difference between two models more than luck with the test samples? Imports torch only."""

import torch
from torch import Tensor

_BLOCK = 1 << 22  # random numbers at a time: 32 MiB


def bootstrap_means(values: Tensor, resamples: int, seed: int) -> Tensor:
    r"""Draw samples with replacement, as many as there are, and average what was drawn; many times.

    Each row of values belongs to one test sample and is drawn as a whole, so that columns are resampled together:
    given the differences of several models to one baseline, sample by sample, this is the paired bootstrap.

    Source: Efron, Bootstrap methods: another look at the jackknife, The Annals of Statistics 7(1), 1979.

    Args:
        values: Of n samples and k quantities, float64, shape (n, k).
        resamples: How often to draw, B.
        seed: Decides what is drawn.

    Returns:
        The means, float64, shape (B, k).

    Raises:
        ValueError: There are no samples, or the shape is another one.
    """
    if values.ndim != 2 or not len(values):
        raise ValueError(f"A bootstrap needs one or more samples, shape (n, k), got the shape {tuple(values.shape)}.")
    count = len(values)
    generator = torch.Generator().manual_seed(seed)
    means = []
    at_once = max(1, _BLOCK // count)
    for start in range(0, resamples, at_once):
        drawn = torch.randint(count, (min(at_once, resamples - start), count), generator=generator)
        times = torch.zeros(drawn.shape, dtype=torch.float64)
        times.scatter_add_(1, drawn, torch.ones((), dtype=torch.float64).expand_as(drawn))
        means.append(times @ values.double() / count)
    return torch.cat(means)


def percentile_interval(resampled: Tensor, level: float = 0.95) -> tuple[float, float]:
    r"""The interval between the :math:`\frac{1 - l}{2}` and the :math:`\frac{1 + l}{2}` quantile of resampled values.

    Source: Efron and Tibshirani, An introduction to the bootstrap, 1993, chapter 13.

    Args:
        resampled: A quantity in B resamples, float64, shape (B,).
        level: How much of them lies within, :math:`l`, between 0 and 1.
    """
    tail = (1 - level) / 2
    low, high = resampled.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def mcnemar(first: Tensor, second: Tensor) -> float:
    r"""McNemar's exact test of two models that are right (1) or wrong (0) on the same samples.

    Only the samples count on which one model is right and the other is wrong, b and c of them. If neither is better,
    each falls to either side like a coin, so the two-sided p value is
    :math:`\min(1, 2 \sum_{i \le \min(b, c)} \binom{b + c}{i} 2^{-(b + c)})`.

    Source: McNemar, Note on the sampling error of the difference between correlated proportions, Psychometrika 12(2),
    1947; its exact form is the sign test.

    Args:
        first: Zeros and ones, shape (n,).
        second: The same of the other model, shape (n,).

    Returns:
        How likely so unequal a split is if neither model is better, between 0 and 1; 1 where both are always alike.

    Raises:
        ValueError: Other values than 0 and 1, or shapes that differ.
    """
    if first.shape != second.shape or not (is_binary(first) and is_binary(second)):
        raise ValueError(
            f"McNemar's test compares zeros and ones of the same samples, got {len(first)} and {len(second)} values"
            f" such as {[*first[:3].tolist(), *second[:3].tolist()]}."
        )
    only_first, only_second = int((first > second).sum()), int((second > first).sum())
    unequal = only_first + only_second
    fewer = torch.arange(min(only_first, only_second) + 1, dtype=torch.float64)
    # logarithms, because the binomial coefficients of thousands of samples are larger than any float64
    log_choose = torch.lgamma(torch.tensor(unequal + 1.0, dtype=torch.float64)) - (fewer + 1).lgamma()
    log_choose -= (unequal - fewer + 1).lgamma()
    tail = (log_choose - unequal * torch.tensor(2.0, dtype=torch.float64).log()).logsumexp(dim=0).exp()
    return min(1.0, 2 * float(tail))


def is_binary(values: Tensor) -> bool:
    """Whether there are only zeros and ones."""
    return bool(((values == 0) | (values == 1)).all())
