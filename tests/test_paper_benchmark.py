"""The reproduction of the paper, at its smallest; a file of its own, so that another process can run it."""

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_the_papers_findings_are_counted_over_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two small sweeps and all studies; what is counted is in the tables that the studies saved."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    paper = importlib.import_module("paper")
    tables: list[dict] = []
    original = paper.figures_of
    monkeypatch.setattr(paper, "figures_of", lambda results: tables.append(results) or original(results))
    monkeypatch.setitem(paper.STUDIES, "NumberOfModels", ["--study.orders", "1", "--study.counts", "[1,2,8]"])
    paper.main(seeds=2, trials=8, output=str(tmp_path / "paper.json"))
    findings = json.loads((tmp_path / "paper.json").read_text())["findings"]
    for seed, results in enumerate(tables):
        rows = {row["model"]: row for row in results["InVersusOut"].rows}
        gain = 100 * (rows["greedy soup"]["test"] - rows["best single"]["test"])
        assert findings["greedy soup - best single, ID"]["seeds"][seed] == pytest.approx(gain)
        better = sum(rows[f"trial-00{k}"]["test"] > rows["best single"]["test"] for k in range(8))
        assert findings["ingredients better than the best single, ID"]["seeds"][seed] == better
    one, other = findings["greedy soup - best single, ID"]["seeds"]
    low, high = findings["greedy soup - best single, ID"]["interval"]
    assert (low + high) / 2 == pytest.approx((one + other) / 2)
    assert (high - low) / 2 == pytest.approx(12.706 * abs(one - other) / 2, rel=1e-3)  # Student's t, one degree
