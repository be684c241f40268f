"""Which held-out samples to look at first: those that were hard so far.

The order never changes a sum; it only decides how early a bound bites. Nothing here needs to be right for a decision
to be right.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric


@dataclass
class Outcomes:
    """How a model did on the samples of one dataloader.

    Args:
        wrong: Share of a sample's predictions that are wrong, from 0 to 1, shape (n,).
        loss: A loss of each sample, shape (n,), never negative: the cross-entropy of scores, the error of numbers.
        depends_on_batch: Whether what the scores mean was decided by the whole batch: torchmetrics takes scores of a
            binary or multilabel task for logits when one of the batch is outside of [0, 1].
    """

    wrong: Tensor
    loss: Tensor
    depends_on_batch: bool = False


class Difficulty:
    """How hard each sample has been.

    Args:
        first: The outcomes of the first full pass, shape (n,).
        by_loss: Whether losses count instead of errors.
    """

    def __init__(self, first: Outcomes, by_loss: bool = False) -> None:
        self._by_loss = by_loss
        self._loss = first.loss
        self._errors = torch.zeros_like(first.loss)
        self.set_incumbent(first)

    def __len__(self) -> int:
        return len(self._loss)

    def set_incumbent(self, outcomes: Outcomes) -> None:
        """What the model to beat gets wrong, shape (n,)."""
        self.incumbent = self._counted(outcomes)

    def note(self, samples: Tensor, outcomes: Outcomes) -> None:
        """Add the errors that a candidate made on some of the samples.

        Args:
            samples: Their indices, shape (m,).
            outcomes: How it did on them, shape (m,).
        """
        self._errors[samples] += self._counted(outcomes)

    def is_as_at_first(self, samples: Tensor, outcomes: Outcomes | None, tolerance: float) -> bool:
        """Whether outcomes on some samples are those of the first full pass.

        Args:
            samples: Their indices, shape (m,).
            outcomes: What to compare, shape (m,).
            tolerance: How much a loss may differ, relative to 1 or to itself if that is more.
        """
        if outcomes is None or len(outcomes.loss) != len(samples):
            return False
        return torch.allclose(outcomes.loss, self._loss[samples], rtol=tolerance, atol=tolerance, equal_nan=True)

    def hardest_first(self, among: Tensor) -> Tensor:
        """Sort samples: what the incumbent gets wrong, then by the errors of all so far, then by the first loss.

        Args:
            among: Indices of the samples to sort, shape (m,).
        """
        order = among
        for key in (self._loss, self._errors, self.incumbent):  # stable sorts: the last one counts most
            order = order[torch.argsort(key[order], descending=True, stable=True)]
        return order

    def _counted(self, outcomes: Outcomes) -> Tensor:
        # a model that diverged says nothing about what is hard
        return outcomes.loss.nan_to_num(0, 0, 0) if self._by_loss else outcomes.wrong


def outcomes_of(preds: Any, target: Any) -> Outcomes | None:
    """Judge predictions sample by sample, whatever the task.

    Args:
        preds: What a metric's ``update`` was given first: labels, shape (n, ...), or scores or logits, shape (n, ...)
            or (n, classes, ...).
        target: What it was given second, shape (n, ...).

    Returns:
        None when the two do not look like predictions and targets of n samples.
    """
    if not (isinstance(preds, Tensor) and isinstance(target, Tensor)) or not preds.ndim or not target.ndim:
        return None
    if len(preds) != len(target) or not len(preds):
        return None
    preds, target = preds.detach().float() if preds.is_floating_point() else preds.detach(), target.detach()
    depends_on_batch = False
    if preds.ndim == target.ndim + 1 and preds.is_floating_point():
        label = target.long().clamp(0, preds.shape[1] - 1)
        wrong = (preds.argmax(dim=1) != target).float()
        loss = preds.logsumexp(dim=1) - preds.gather(1, label.unsqueeze(1)).squeeze(1)
    elif preds.shape != target.shape:
        return None
    elif not preds.is_floating_point():
        wrong = loss = (preds != target).float()
    elif target.is_floating_point():
        wrong = loss = (preds - target).abs()
    else:
        depends_on_batch = not bool(((preds >= 0) & (preds <= 1)).all())
        scores = preds.sigmoid() if depends_on_batch else preds
        wrong = ((scores - target).abs() > 0.5).float()
        loss = nn.functional.binary_cross_entropy(scores, target.float(), reduction="none")
    wrong, loss = (value.reshape(len(value), -1).mean(dim=1).cpu() for value in (wrong, loss))
    return Outcomes(wrong, loss, depends_on_batch)


class Watch:
    """Notes what a module's metrics are updated with, batch by batch.

    Args:
        module: The module whose metrics to look at.
    """

    def __init__(self, module: nn.Module) -> None:
        self._metrics = [one for one in module.modules() if isinstance(one, Metric)]
        self._seen: dict[int, tuple[Any, Any]] = {}

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Watch while the block runs."""
        originals = [metric.update for metric in self._metrics]
        for metric in self._metrics:
            setattr(metric, "update", self._noting(metric, metric.update))  # noqa: B010  mypy: methods are fixed
        try:
            yield
        finally:
            for metric, original in zip(self._metrics, originals, strict=True):
                setattr(metric, "update", original)  # noqa: B010

    def take(self, rows: int, preferred: Metric | None) -> Outcomes | None:
        """What the last batch came to; forgets it.

        Args:
            rows: How many samples the batch had.
            preferred: The metric to judge by; another one if this was not updated sample by sample.
        """
        seen = [self._seen.pop(id(preferred), (None, None)), *self._seen.values()]
        self._seen.clear()
        judged = (outcomes_of(preds, target) for preds, target in seen)
        return next((one for one in judged if one is not None and len(one.wrong) == rows), None)

    def _noting(self, metric: Metric, update: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*args: Any, **kwargs: Any) -> Any:
            preds, target = (*args, None, None)[:2]
            self._seen.setdefault(id(metric), (kwargs.get("preds", preds), kwargs.get("target", target)))
            return update(*args, **kwargs)

        return noting
