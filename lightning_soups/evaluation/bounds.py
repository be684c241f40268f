"""What a metric can still reach when a part of the held-out data has been seen.

A bound works on *sums*: numbers that grow batch by batch, that add up over processes, and that decide the metric's
value. It is given the sums seen so far and what is known of their totals from an earlier full pass, and returns the
best value that any continuation can lead to. When even that does not reach the score to beat, the candidate is
rejected for certain (design, section 7).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torchmetrics
from torch import Tensor
from torchmetrics import Metric, classification

from lightning_soups.score import Mode

_TASKS = ("Binary", "Multiclass", "Multilabel")
_OF_STAT_SCORES = (
    *("Accuracy", "Precision", "Recall", "Specificity", "F1Score", "FBetaScore", "HammingDistance"),
    "NegativePredictiveValue",
)
_MULTICLASS_RATES_OF_NEGATIVES = ("MulticlassSpecificity", "MulticlassNegativePredictiveValue")
# Exactly these classes: a subclass may compute something else from the same counts.
_STAT_SCORES = frozenset(
    getattr(classification, f"{task}{name}")
    for task in _TASKS
    for name in _OF_STAT_SCORES
    if hasattr(classification, f"{task}{name}")
)
_RATES_OF_NEGATIVES = [one for one in _STAT_SCORES if one.__name__ in _MULTICLASS_RATES_OF_NEGATIVES]
_ERROR_SUMS = {
    torchmetrics.MeanSquaredError: "sum_squared_error",
    torchmetrics.MeanAbsoluteError: "sum_abs_error",
    torchmetrics.MeanSquaredLogError: "sum_squared_log_error",
}


class Bound(ABC):
    """A metric's best possible value.

    Attributes:
        mode: The direction that the bound works for.
        of_samples: Whether the sums are over samples by definition, so that grouping the same samples into other
            batches leaves them as they are, up to rounding.
        observed: Whether the bound holds only as long as the first sum has never been seen to fall.
        rounding: How far, relatively, rounding may move the value when the same sums are added in another order.
    """

    mode: Mode
    of_samples: bool
    observed: bool = False
    rounding: float = 1e-4  # of thousands of float32 additions

    @abstractmethod
    def sums(self) -> Tensor:
        """This process's sums so far, float64, shape (k,), on CPU."""

    @abstractmethod
    def fixed(self, sums: Tensor) -> Tensor:
        """The part of the totals that the data alone decide, not the model; shape (j,). The same in every full pass."""

    @abstractmethod
    def best_possible(self, seen: Tensor, total: Tensor) -> float:
        """The best value that a pass can end with; NaN when there is no bound.

        Args:
            seen: The sums so far, over all processes, shape (k,).
            total: The sums at the end of an earlier full pass over the same data; only their fixed part is used.
        """


class StatScoresBound(Bound):
    r"""Accuracy, precision, recall, specificity, F-beta, Hamming distance, negative predictive value.

    The sums are the counts tp, fp, tn, fn, one of each or one per class. The targets alone decide
    :math:`P = tp + fn` and :math:`N = tn + fp` of every class, so the end of a pass is decided by the final fn and fp,
    and those are at least what they are now. Each of these metrics is, class by class, non-increasing (for the Hamming
    distance non-decreasing) in fn and in fp at fixed P and N: recall is :math:`(P - fn) / P`, precision
    :math:`(P - fn) / (P - fn + fp)`, F-beta :math:`(1+\beta^2)(P - fn) / ((1+\beta^2)P - fn + fp)` up to constants,
    specificity :math:`(N - fp)/N`, negative predictive value :math:`(N - fp) / (N - fp + fn)`, accuracy is a recall or
    :math:`(P + N - fn - fp) / (P + N)`. Micro averages add the classes' counts first; weighted averages have the
    weights P. So the best possible value is the metric of fn and fp as they are now and everything else right,
    :math:`tp = P - fn, tn = N - fp`: every unseen sample predicted perfectly.

    One subtlety: torchmetrics' multiclass macro average leaves out a class that is absent (P = 0) and was never
    predicted. Once predicted it comes in with a recall, precision, F-beta or accuracy of 0, the worst value, but with a
    specificity near 1. Where that can happen there is no bound.

    Args:
        metric: One of torchmetrics' own classes, averaged globally.
    """

    of_samples = True
    rounding = 1e-6  # the counts are exact, torchmetrics divides them in float32

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._computing = metric.clone().cpu()
        self._computing.sync_on_compute = False
        # not higher_is_better, which torchmetrics leaves None for specificity
        self.mode = "min" if type(metric).__name__.endswith("HammingDistance") else "max"
        self._absent_class_may_help = type(metric) in _RATES_OF_NEGATIVES and metric.average == "macro"

    def sums(self) -> Tensor:
        """Counts tp, fp, tn, fn, one after the other."""
        counts = [getattr(self._metric, name).detach().reshape(-1) for name in ("tp", "fp", "tn", "fn")]
        return torch.cat(counts).cpu().double()

    def fixed(self, sums: Tensor) -> Tensor:
        """P and N of every class."""
        tp, fp, tn, fn = sums.chunk(4)
        return torch.cat([tp + fn, tn + fp])

    def best_possible(self, seen: Tensor, total: Tensor) -> float:
        """See the class."""
        positives, negatives = self.fixed(total).chunk(2)
        if self._absent_class_may_help and not positives.all():
            return math.nan
        _, fp, _, fn = seen.chunk(4)
        states = {"tp": positives - fn, "fp": fp, "tn": negatives - fp, "fn": fn}
        return _compute(self._computing, {name: count.long() for name, count in states.items()})


class ErrorSumBound(Bound):
    r"""Mean squared, absolute and squared logarithmic error, as torchmetrics defines them, and the root of the first.

    The sums are :math:`\sum_i e_i` and the number of values n. Every :math:`e_i \ge 0` by definition, so the final sum
    is at least what it is now, and the final n is known: the mean is at least :math:`\sum_{seen} e_i / n`. The root is
    monotone.

    Args:
        metric: One of torchmetrics' own classes, with a single output.
    """

    mode: Mode = "min"
    of_samples = True

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._name = _ERROR_SUMS[type(metric)]
        self._computing = metric.clone().cpu()
        self._computing.sync_on_compute = False

    def sums(self) -> Tensor:
        """The summed error and the number of values."""
        states = [getattr(self._metric, name).detach().reshape(-1) for name in (self._name, "total")]
        return torch.cat([state.cpu().double() for state in states])

    def fixed(self, sums: Tensor) -> Tensor:
        """The number of values."""
        return sums[1:]

    def best_possible(self, seen: Tensor, total: Tensor) -> float:
        """See the class."""
        states = {self._name: seen[0].to(getattr(self._computing, self._name).dtype), "total": total[1]}
        return _compute(self._computing, states)


class MeanBound(Bound):
    r"""A number logged with ``self.log("val_loss", loss)``, or a ``MeanMetric``: :math:`\sum_b w_b v_b / \sum_b w_b`.

    The sum is over batches b; the total weight W is known, for logged numbers it is the number of samples. As long as
    no batch has a negative value the sum only grows, so the mean is at least :math:`\sum_{seen} w_b v_b / W`. Of a
    plain number that cannot be known, only observed: whoever uses this bound has to watch the sum, and to take back
    what the bound decided should it ever fall. Nor is it known that such a number is a mean over samples (it may be the
    exponential or the root of one), so the sums belong to the batches that the loader makes.

    Args:
        read: Returns this process's weighted sum and total weight so far.
    """

    mode: Mode = "min"
    of_samples = False
    observed = True

    def __init__(self, read: Callable[[], tuple[float, float]]) -> None:
        self._read = read

    def sums(self) -> Tensor:
        """The weighted sum and the total weight."""
        return torch.tensor(self._read(), dtype=torch.float64)

    def fixed(self, sums: Tensor) -> Tensor:
        """The total weight."""
        return sums[1:]

    def best_possible(self, seen: Tensor, total: Tensor) -> float:
        """See the class."""
        return float(seen[0] / total[1])


def bound_of(metric: Metric) -> Bound | None:
    """The bound of a metric; None when nothing is known about it: AUROC, a user's own metric, and the like."""
    if type(metric) in _STAT_SCORES:
        # a class that is absent may enter a macro average with this score, which need not be the worst
        plain = getattr(metric, "zero_division", 0) == 0
        scalar = getattr(metric, "average", "micro") not in (None, "none")
        return StatScoresBound(metric) if plain and scalar and metric.multidim_average == "global" else None
    if type(metric) in _ERROR_SUMS:
        return ErrorSumBound(metric) if getattr(metric, _ERROR_SUMS[type(metric)]).numel() == 1 else None
    if type(metric) is torchmetrics.MeanMetric:
        return MeanBound(lambda: (float(metric.mean_value), float(metric.weight)))
    return None


def _compute(metric: Metric, states: dict[str, Tensor]) -> float:
    """What torchmetrics computes from given states; NaN where that is no single number."""
    metric.reset()
    for name, state in states.items():
        setattr(metric, name, state.reshape(getattr(metric, name).shape))
    metric._update_count = 1  # private; else compute warns that it came before update
    value = metric.compute()
    return float(value) if isinstance(value, Tensor) and value.numel() == 1 else math.nan
