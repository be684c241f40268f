"""Cooks random cases with and without shortcuts, on one or two processes, and counts differences.

    python -m tests.evaluation.exactness --seeds 200 --processes 2

On two processes the ``ddp`` strategy starts the second one from this command line; where the held-out data and the
metric allow it, every process also cooks the case alone. Prints JSON; exits with 1 when anything differs.
"""

import json
import logging
import math
import os
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

from jsonargparse import auto_cli

from lightning_soups import Soup
from tests.evaluation.cases import Case, cook, decisions, ingredients


def differences(reference: Soup, other: Soup, tolerance: float = 1e-7) -> list[str]:
    """What differs between two cooks of one case, in words; scores by more than a relative tolerance."""

    def close(one: float, another: float) -> bool:
        return math.isclose(one, another, rel_tol=tolerance, abs_tol=tolerance)

    found = []
    if other.mixture != reference.mixture:
        found.append(f"members {other.mixture} against {reference.mixture}")
    if decisions(other) != decisions(reference):
        found.append("decisions")
    if not close(other.score.value, reference.score.value):
        found.append(f"score {other.score.value!r} against {reference.score.value!r}")
    full = {row.mixture: row.score.value for row in reference.trace if not row.early}
    for row in other.trace:
        if not row.early and row.mixture in full and not close(row.score.value, full[row.mixture]):
            found.append(f"answer {row.score.value!r} against {full[row.mixture]!r}")
    return found


def main(seeds: int = 200, first_seed: int = 0, processes: int = 1) -> None:
    """Compare.

    Args:
        seeds: How many cases.
        first_seed: The first case.
        processes: 1 or 2.
    """
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    together = {"devices": processes, "strategy": "ddp"} if processes > 1 else {}
    rank = int(os.environ.get("LOCAL_RANK", 0))
    root = Path(os.environ.setdefault("LIGHTNING_SOUPS_EXACTNESS", tempfile.mkdtemp()))
    count: Counter[str] = Counter()
    found: dict[int, list[str]] = {}
    for seed in range(first_seed, first_seed + seeds):
        case, directory = Case.of(seed), root / f"{seed}-{rank}"
        if min(case.samples) < processes:
            continue
        directory.mkdir()
        ingredients(case, directory)
        full = cook(case, directory, "full.ckpt", together, early_rejection=False, cache_batches="off")
        short = cook(case, directory, "short.ckpt", together)
        found[seed] = differences(full, short)
        if processes > 1 and case.the_same_on_any_number_of_processes:
            alone = cook(case, directory, "alone.ckpt")
            # the module computes float32 means of other batches there; counts are the same to the last bit
            tolerance = 1e-7 if case.counts else 1e-6
            found[seed] += [f"alone: {text}" for text in differences(alone, short, tolerance)]
            count["cases compared with one process"] += 1
        count["cases"] += 1
        count["with early rejections"] += any(row.early for row in short.trace)
        count["samples, full passes"] += sum(row.samples for row in full.trace)
        count["samples, shortcuts"] += sum(row.samples for row in short.trace)
        count[f"cases by {case.monitor}"] += 1
        count[f"rejected early by {case.monitor}"] += sum(row.early for row in short.trace)
    wrong = {seed: texts for seed, texts in found.items() if texts}
    if rank == 0:
        print(json.dumps({"processes": processes, "different": wrong, **count}, indent=1))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    auto_cli(main)
