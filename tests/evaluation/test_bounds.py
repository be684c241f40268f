"""Tries to break the bounds: no continuation may end better than what they call the best possible."""

import math

import pytest
import torch
import torchmetrics
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics import Metric, classification

from lightning_soups.evaluation.bounds import MeanBound, bound_of

CLASSES = 4
NAMES = ["Accuracy", "Precision", "Recall", "Specificity", "F1Score", "FBetaScore", "HammingDistance"]
NAMES += ["NegativePredictiveValue"] * hasattr(classification, "BinaryNegativePredictiveValue")  # torchmetrics 1.6


@st.composite
def tasks(draw: st.DrawFn) -> tuple[Metric, Tensor, Tensor, Tensor]:
    """A metric, targets, and the predictions of two models for them."""
    kind, name = draw(st.sampled_from(["Binary", "Multiclass", "Multilabel"])), draw(st.sampled_from(NAMES))
    options: dict[str, object] = {"beta": draw(st.sampled_from([0.5, 2.0]))} if name == "FBetaScore" else {}
    samples, length = draw(st.integers(1, 24)), draw(st.sampled_from([0, 3]))
    shape = (samples, length) if length else (samples,)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    if kind == "Multiclass":
        options |= {"num_classes": CLASSES, "average": draw(st.sampled_from(["micro", "macro", "weighted"]))}
        options |= {"top_k": draw(st.sampled_from([1, 2]))} if not length else {}
        options |= {"ignore_index": draw(st.sampled_from([None, 0, -1]))}
        present = draw(st.lists(st.integers(0, CLASSES - 1), min_size=1, unique=True))  # others never occur
        if options["ignore_index"] == -1:
            present.append(-1)
        target = torch.tensor(present)[torch.randint(len(present), shape, generator=generator)]
        preds = [torch.randn(samples, CLASSES, *shape[1:], generator=generator) for _ in range(2)]
    else:
        if kind == "Multilabel":
            options |= {"num_labels": CLASSES, "average": draw(st.sampled_from(["micro", "macro", "weighted"]))}
            shape = (samples, CLASSES)
        threshold = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9]))  # 0.0: no positive at all
        target = (torch.rand(shape, generator=generator) < threshold).long()
        preds = [torch.rand(shape, generator=generator) for _ in range(2)]
    return getattr(classification, f"{kind}{name}")(**options), target, preds[0], preds[1]


@settings(max_examples=600, deadline=None)
@given(tasks(), st.floats(0, 1))
def test_no_candidate_ends_better_than_its_bound_said(task, share: float) -> None:
    metric, target, incumbent, candidate = task
    bound = bound_of(metric)
    assert bound is not None
    metric.update(incumbent, target)
    total = bound.sums()
    assert bound.best_possible(total, total) == pytest.approx(metric.compute().item(), abs=1e-6) or math.isnan(
        bound.best_possible(total, total)
    )
    metric.reset()
    seen = int(share * len(target))
    if seen:
        metric.update(candidate[:seen], target[:seen])
    best = bound.best_possible(bound.sums(), total)
    if seen < len(target):
        metric.update(candidate[seen:], target[seen:])
    assert torch.equal(bound.fixed(bound.sums()), bound.fixed(total)), "what the data decide is not fixed"
    final = metric.compute().item()
    if math.isnan(best):
        assert metric.average == "macro", "only where an absent class may help is there no bound"
    elif "HammingDistance" not in type(metric).__name__:
        assert bound.mode == "max"
        assert final <= best + 1e-6
    else:
        assert bound.mode == "min"
        assert final >= best - 1e-6


@pytest.mark.parametrize("kind", ["Binary", "Multiclass", "Multilabel"])
@pytest.mark.parametrize("name", NAMES)
def test_the_bound_is_reached_by_a_perfect_rest(kind: str, name: str) -> None:
    """It would be of no use if it were never tight."""
    options = {"Binary": {}, "Multiclass": {"num_classes": 3}, "Multilabel": {"num_labels": 3}}[kind]
    metric = getattr(classification, f"{kind}{name}")(**options, **({"beta": 2.0} if name == "FBetaScore" else {}))
    bound = bound_of(metric)
    generator = torch.Generator().manual_seed(0)
    shape = (40, 3) if kind == "Multilabel" else (40,)
    target = torch.randint(3 if kind == "Multiclass" else 2, shape, generator=generator)
    preds = torch.randint(3 if kind == "Multiclass" else 2, shape, generator=generator)
    metric.update(target, target)
    total = bound.sums()
    metric.reset()
    metric.update(preds[:25], target[:25])
    best = bound.best_possible(bound.sums(), total)
    metric.update(target[25:], target[25:])
    assert best == pytest.approx(metric.compute().item(), abs=1e-6)
    assert 0 < best < 1


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["MeanSquaredError", "MeanAbsoluteError", "MeanSquaredLogError", "root"]),
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=20),
    st.floats(0, 1),
)
def test_mean_errors(name: str, pairs: list[tuple[float, float]], share: float) -> None:
    metric = torchmetrics.MeanSquaredError(squared=False) if name == "root" else getattr(torchmetrics, name)()
    bound = bound_of(metric)
    assert bound is not None
    preds, target = torch.tensor(pairs).unbind(dim=1)
    metric.update(target + 1, target)
    total = bound.sums()
    metric.reset()
    seen = int(share * len(target))
    if seen:
        metric.update(preds[:seen], target[:seen])
    best = bound.best_possible(bound.sums(), total)
    if seen < len(target):
        metric.update(preds[seen:], target[seen:])
    assert metric.compute().item() >= best * (1 - 1e-5)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 64)), min_size=1, max_size=20), st.floats(0, 1))
def test_logged_means(batches: list[tuple[float, int]], share: float) -> None:
    state = [0.0, 0.0]
    bound = MeanBound(lambda: (state[0], state[1]))
    total = torch.tensor([math.nan, float(sum(size for _, size in batches))], dtype=torch.float64)
    seen = int(share * len(batches))
    for value, size in batches[:seen]:
        state = [state[0] + value * size, state[1] + size]
    best = bound.best_possible(bound.sums(), total)
    mean = sum(value * size for value, size in batches) / sum(size for _, size in batches)
    assert mean >= best * (1 - 1e-12)


class Flipped(classification.MulticlassAccuracy):
    def compute(self) -> Tensor:
        return 1 - super().compute()


@pytest.mark.parametrize(
    "metric",
    [
        classification.MulticlassAUROC(3),
        classification.MulticlassConfusionMatrix(3),
        classification.MulticlassAccuracy(3, average=None),
        classification.MulticlassAccuracy(3, multidim_average="samplewise"),
        classification.MulticlassPrecision(3, zero_division=1),
        torchmetrics.MeanSquaredError(num_outputs=2),
        torchmetrics.R2Score(),
        Flipped(3),
    ],
    ids=lambda metric: type(metric).__name__,
)
def test_what_has_no_bound(metric: Metric) -> None:
    assert bound_of(metric) is None


def test_a_macro_specificity_may_rise_with_a_class_that_is_absent() -> None:
    """Predicting class 2, which never occurs, adds a class with a specificity near 1 to the average."""
    metric = classification.MulticlassSpecificity(3, average="macro")
    target = torch.tensor([0, 1, 0, 1])
    metric.update(torch.tensor([1, 0, 1, 0]), target)
    without = metric.compute().item()
    metric.reset()
    metric.update(torch.tensor([1, 0, 1, 2]), target)
    assert metric.compute().item() > without
    bound = bound_of(metric)
    assert bound is not None
    assert math.isnan(bound.best_possible(bound.sums(), bound.sums()))
