"""Which held-out samples to look at first: those that were hard so far.

The order never changes a sum; it only decides how early a bound bites. Nothing here needs to be right for a decision
to be right.
"""

from collections.abc import Callable, Iterable, Iterator
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
        loss: A loss of each sample, shape (n,).
    """

    wrong: Tensor
    loss: Tensor


class Difficulty:
    """How hard each sample has been.

    Args:
        first: The outcomes of the first full pass, shape (n,).
    """

    def __init__(self, first: Outcomes) -> None:
        self._loss = first.loss
        self._errors = torch.zeros_like(first.wrong)
        self.incumbent = first.wrong

    def __len__(self) -> int:
        return len(self._loss)

    def note(self, samples: Tensor, outcomes: Outcomes) -> None:
        """Add the errors that a candidate made on some of the samples.

        Args:
            samples: Their indices, shape (m,).
            outcomes: How it did on them, shape (m,).
        """
        self._errors[samples] += outcomes.wrong

    def hardest_first(self, among: Tensor) -> Tensor:
        """Sort samples: what the incumbent gets wrong, then by the errors of all so far, then by the first loss.

        Args:
            among: Indices of the samples to sort, shape (m,).
        """
        order = among
        for key in (self._loss, self._errors, self.incumbent):  # stable sorts: the last one counts most
            order = order[torch.argsort(key[order], descending=True, stable=True)]
        return order


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
        scores = preds if bool(((preds >= 0) & (preds <= 1)).all()) else preds.sigmoid()
        loss = (scores - target).abs()
        wrong = (loss > 0.5).float()
    return Outcomes(*(value.reshape(len(value), -1).mean(dim=1).cpu() for value in (wrong, loss)))


class Watch:
    """Notes what metrics are updated with, batch by batch.

    Args:
        metrics: The metrics to look at; the first that can be judged sample by sample counts.
    """

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)
        self._seen: dict[int, tuple[Any, Any]] = {}

    @classmethod
    def of(cls, module: nn.Module, monitored: Metric | None) -> "Watch":
        """Look at all metrics of a module, first of all at the monitored one."""
        found = [one for one in module.modules() if isinstance(one, Metric)]
        return cls(sorted(found, key=lambda metric: metric is not monitored))

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Watch while the block runs."""
        originals = [metric.update for metric in self._metrics]
        for number, metric in enumerate(self._metrics):
            setattr(metric, "update", self._noting(number, metric.update))  # noqa: B010  mypy: methods are fixed
        try:
            yield
        finally:
            for metric, original in zip(self._metrics, originals, strict=True):
                setattr(metric, "update", original)  # noqa: B010

    def take(self, rows: int) -> Outcomes | None:
        """What the last batch, of so many rows, came to; forgets it."""
        seen = [self._seen[number] for number in sorted(self._seen)]
        self._seen.clear()
        judged = (outcomes_of(preds, target) for preds, target in seen)
        return next((one for one in judged if one is not None and len(one.wrong) == rows), None)

    def _noting(self, number: int, update: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*args: Any, **kwargs: Any) -> Any:
            preds, target = (*args, None, None)[:2]
            self._seen.setdefault(number, (kwargs.get("preds", preds), kwargs.get("target", target)))
            return update(*args, **kwargs)

        return noting
