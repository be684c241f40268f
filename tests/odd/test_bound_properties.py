"""No completion of a part of the data ends better than the bound said: metrics in batches, of odd shapes and sizes."""

import math
from typing import Any

import torch
import torchmetrics
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics import Metric, classification

from lightning_soups.evaluation.bounds import Bound, bound_of

CLASSES = 3
NAMES = [
    *("Accuracy", "Precision", "Recall", "Specificity", "F1Score", "FBetaScore", "HammingDistance"),
    *(["NegativePredictiveValue"] if hasattr(classification, "BinaryNegativePredictiveValue") else []),  # 1.6
]


def made(name: str, task: str, average: str, beta: float) -> Metric:
    options: dict[str, Any] = {"beta": beta} if name == "FBetaScore" else {}
    if task != "Binary":
        options |= {"num_classes" if task == "Multiclass" else "num_labels": CLASSES, "average": average}
    metric: Metric = getattr(classification, f"{task}{name}")(**options)
    return metric


def fed(metric: Metric, preds: Tensor, target: Tensor, cuts: list[int]) -> None:
    """Update batch by batch."""
    for start, stop in zip([0, *cuts], [*cuts, len(target)], strict=True):
        if stop > start:
            metric.update(preds[start:stop], target[start:stop])


def seen_and_end(
    metric: Metric, bound: Bound, total: Tensor, preds: Tensor, target: Tensor, seen: int, cuts: list[int]
) -> tuple[float, float]:
    """What the bound says after a part, and the value at the end."""
    metric.reset()
    fed(metric, preds[:seen], target[:seen], [cut for cut in cuts if cut < seen])
    best = bound.best_possible(bound.sums(), total)
    fed(metric, preds[seen:], target[seen:], [cut - seen for cut in cuts if cut > seen])
    return best, metric.compute().item()


def refuted(bound: Bound, best: float, final: float) -> bool:
    """Whether a candidate that ended like this would have been rejected by mistake, with the slack that is given."""
    slack = bound.rounding * max(abs(best), abs(final))
    return final > best + slack if bound.mode == "max" else final < best - slack


@given(st.data(), st.sampled_from(NAMES), st.sampled_from(["Binary", "Multiclass", "Multilabel"]))
def test_counts(data: st.DataObject, name: str, task: str) -> None:
    metric = made(name, task, data.draw(st.sampled_from(["micro", "macro", "weighted"])), data.draw(st.floats(0.1, 5)))
    bound = bound_of(metric)
    assert bound is not None
    samples = data.draw(st.integers(1, 30))
    labels = CLASSES if task == "Multiclass" else 2
    shape = (samples, CLASSES) if task == "Multilabel" else (samples,)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    present = torch.tensor(data.draw(st.lists(st.integers(0, labels - 1), min_size=1, unique=True)))
    target = present[torch.randint(len(present), shape, generator=generator)]
    metric.update(torch.randint(labels, shape, generator=generator), target)
    total = bound.sums()
    seen = data.draw(st.integers(0, samples))
    cuts = sorted(data.draw(st.lists(st.integers(1, samples), max_size=3)))
    start = torch.randint(labels, shape, generator=generator)
    worst = -math.inf if bound.mode == "max" else math.inf
    # the same beginning, with ends of all kinds: at random, all right, and one class everywhere
    ends = [
        torch.randint(labels, shape, generator=generator),
        target,
        *(torch.full(shape, one) for one in range(labels)),
    ]
    for end in ends:
        preds = torch.cat([start[:seen], end[seen:]])
        best, final = seen_and_end(metric, bound, total, preds, target, seen, cuts)
        if math.isnan(best):
            continue
        assert best != worst
        assert not refuted(bound, best, final)


ERRORS = {
    "mean squared": lambda: torchmetrics.MeanSquaredError(),
    "root mean squared": lambda: torchmetrics.MeanSquaredError(squared=False),
    "mean absolute": lambda: torchmetrics.MeanAbsoluteError(),
    "mean squared logarithmic": lambda: torchmetrics.MeanSquaredLogError(),
}


@given(st.data(), st.sampled_from(list(ERRORS)), st.sampled_from([1e-6, 1.0, 1e6]))
def test_mean_errors_in_float32(data: st.DataObject, name: str, scale: float) -> None:
    """States are float32 sums of numbers of very different sizes; the slack is what makes up for that."""
    metric = ERRORS[name]()
    bound = bound_of(metric)
    assert bound is not None
    samples = data.draw(st.integers(1, 200))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    target = torch.rand(samples, generator=generator) * scale
    exponents = torch.randint(-8, 8, (samples,), generator=generator)
    preds = (target + torch.ldexp(torch.randn(samples, generator=generator), exponents) * scale).clamp(min=0)
    metric.update(target, target)
    total = bound.sums()
    seen = data.draw(st.integers(0, samples))
    cuts = sorted(data.draw(st.lists(st.integers(1, samples), max_size=20)))
    for rest in (preds, target):
        both = torch.cat([preds[:seen], rest[seen:]])
        best, final = seen_and_end(metric, bound, total, both, target, seen, cuts)
        assert not refuted(bound, best, final)
    if seen:  # the bound is what is reached when nothing more goes wrong
        assert best <= final * (1 + bound.rounding) + 1e-30


@given(st.data())
def test_means_with_weights(data: st.DataObject) -> None:
    values = data.draw(st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 64)), min_size=1, max_size=30))
    metric = torchmetrics.MeanMetric()
    bound = bound_of(metric)
    assert bound is not None
    for value, weight in values:
        metric.update(torch.tensor(value * 2 + 1), weight)
    total = bound.sums()
    metric.reset()
    seen = data.draw(st.integers(0, len(values)))
    best = bound.best_possible(bound.sums(), total)
    for index, (value, weight) in enumerate(values):
        metric.update(torch.tensor(value), weight)
        if index + 1 == seen:
            best = bound.best_possible(bound.sums(), total)
    final = metric.compute().item()
    assume(math.isfinite(final))
    assert not refuted(bound, best, final)
