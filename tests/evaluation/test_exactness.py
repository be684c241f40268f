"""Early rejection, the cache and the number of processes change nothing that is chosen.

More cases: ``python -m tests.evaluation.exactness --seeds 500``, and the same with ``--processes 2``.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evaluation.cases import Case, cook, ingredients
from tests.evaluation.exactness import differences

pytestmark = pytest.mark.filterwarnings("ignore")
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("seed", range(60))
def test_shortcuts_change_nothing(tmp_path: Path, seed: int) -> None:
    case = Case.of(seed)
    ingredients(case, tmp_path)
    full = cook(case, tmp_path, early_rejection=False, cache_batches="off")
    short = cook(case, tmp_path, early_rejection=True, cache_batches="off" if seed % 5 == 0 else "auto")
    assert not differences(full, short)
    assert not any(row.early for row in full.trace)
    scores = {row.mixture: row.score for row in full.trace}
    for row in short.trace:
        if row.early:  # a bound, so no worse than the truth but for rounding
            sign, truth = (1 if case.mode == "max" else -1), scores[row.mixture].value
            assert sign * row.score.value >= sign * truth - 1e-4 * abs(truth)


def test_two_processes_of_ddp_choose_what_one_does() -> None:
    """The strategy that starts its processes from the command line; test_distributed.py has the one that spawns."""
    command = [sys.executable, "-m", "tests.evaluation.exactness", "--seeds", "12", "--processes", "2"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LIGHTNING_SOUPS")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, env=environment)
    result = json.loads(done.stdout[done.stdout.index("{") :])
    assert result["different"] == {}
    assert result["cases compared with one process"] > 2
    assert done.returncode == 0
