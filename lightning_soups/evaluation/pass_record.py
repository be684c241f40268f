"""What is noted in a pass, batch by batch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_soups.evaluation.order import Outcomes


@dataclass(frozen=True)
class BatchRecord:
    """What was noted after one batch of a full pass.

    Args:
        dataloader: Index of the dataloader.
        rows: How many samples the batch had.
        outcomes: How the module did on them, when that could be seen.
        sums: This process's monitored sums after the batch.
    """

    dataloader: int
    rows: int
    outcomes: Outcomes | None
    sums: Tensor | None


def outcomes_in(records: Sequence[BatchRecord], dataloader: int | None = None) -> Outcomes | None:
    """The outcomes of some batches, one after the other.

    Args:
        records: The batches.
        dataloader: The only dataloader whose samples matter, if there is one; those of others count as easy.

    Returns:
        None when the outcomes of a sample that matters are missing.
    """
    found = []
    for record in records:
        outcomes = record.outcomes
        if dataloader not in (None, record.dataloader):
            outcomes = Outcomes(torch.zeros(record.rows), torch.zeros(record.rows))
        if outcomes is None:
            return None
        found.append(outcomes)
    if not found:
        return None
    return Outcomes(
        torch.cat([one.wrong for one in found]),
        torch.cat([one.loss for one in found]),
        any(one.depends_on_batch for one in found),
    )


def losses_explain(records: Sequence[BatchRecord], dataloader: int | None) -> bool:
    """Whether a logged mean is that of the samples' losses, seen independently, in every batch.

    Then it is a mean over samples of something that is never negative, by definition and not only so far.

    Args:
        records: Batches from the beginning of a pass.
        dataloader: The only dataloader that the mean is of, if there is one.
    """
    before = torch.zeros(2, dtype=torch.float64)
    for record in records:
        if dataloader not in (None, record.dataloader):
            continue
        if record.outcomes is None or record.sums is None:
            return False
        value, weight = (record.sums - before).tolist()
        before = record.sums
        # the logged sum is a float32, so a batch's share of it is only known up to the rounding of the whole
        rounding = 1e-6 * float(record.sums[0].abs())
        loss = float(record.outcomes.loss.double().sum())
        if weight != record.rows or not math.isclose(value, loss, rel_tol=1e-4, abs_tol=rounding):
            return False
    return bool(records)
