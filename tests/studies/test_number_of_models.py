"""Against means of float64 weights, a plain greedy loop and averaged logits."""

from pathlib import Path
from statistics import fmean

import pytest
import torch

from lightning_soups import Ingredients, NumberOfModels, StudyResult
from tests.helpers import mean, record
from tests.studies.plain import HELD_OUT, NAMES, accuracy, averaged, greedy, right, study, weights

LRS = [0.02, 0.1, 0.3, 0.6, 1.2]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("soups")
    record(directory, LRS)
    return directory


@pytest.fixture(scope="module")
def result(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return study(NumberOfModels(orders=2, seed=3), recorded, tmp_path_factory.mktemp("study"))


def test_every_number_of_models_in_every_order(recorded: Path, result: StudyResult) -> None:
    ingredients = Ingredients.load(recorded)
    found = dict(zip([one.run for one in ingredients], weights(ingredients), strict=True))
    orders = result.details["orders"]
    assert [sorted(order) for order in orders] == [sorted(found)] * 2
    assert orders[0] != orders[1]
    assert [(row["order"], row["k"]) for row in result.rows[::4]] == [(o, k) for o in (1, 2) for k in range(1, 6)]
    for row in result.rows:
        first = [found[run] for run in orders[row["order"] - 1][: row["k"]]]
        members = {
            "best single": [max(range(len(first)), key=lambda i: (accuracy(first[i], HELD_OUT), -i))],
            "uniform soup": range(len(first)),
            "greedy soup": greedy(first),
            "ensemble": range(len(first)),
        }[row["model"]]
        chosen = [first[i] for i in members]
        assert row["members"] == len(chosen)
        if row["model"] == "ensemble":
            assert row["held-out"] is None
            values = {name: float(right(averaged(chosen, name), name).mean()) for name in NAMES}
        else:
            assert row["held-out"] == pytest.approx(accuracy(mean(chosen), HELD_OUT), abs=1e-6)
            values = {name: accuracy(mean(chosen), name) for name in NAMES}
        assert [row[name] for name in NAMES] == pytest.approx([values[name] for name in NAMES], abs=1e-6), row
        assert row["mean in-distribution"] == row["plain"]
        assert row["mean shifted"] == pytest.approx(fmean([values["noisy"], values["noisier"]]), abs=1e-6)


def test_greedy_soups_are_saved_with_the_result(recorded: Path, result: StudyResult) -> None:
    for order in (1, 2):
        coefficients = result.models[f"greedy soup, order {order}, k = 5"]["coefficients"]
        state = mean([torch.load(path, weights_only=True)["state_dict"] for path in coefficients])
        row = next(r for r in result.rows if (r["order"], r["k"], r["model"]) == (order, 5, "greedy soup"))
        assert row["noisy"] == pytest.approx(accuracy(state, "noisy"), abs=1e-6)


def test_conclusions_count_how_often_greedy_is_as_good(result: StudyResult) -> None:
    cells = {(row["order"], row["k"], row["model"]): row for row in result.rows if row["k"] > 1}
    for column, name in (("plain", "plain (in distribution)"), ("mean shifted", "mean of 2 shifted datasets")):
        pairs = [
            (cells[o, k, "greedy soup"][column], cells[o, k, "best single"][column])
            for o in (1, 2)
            for k in range(2, 6)
        ]
        count, better = sum(a >= b for a, b in pairs), sum(a > b for a, b in pairs)
        expected = f"{name}: of 8 sets of two or more models the greedy soup is at least as good as the best single one"
        assert any(text.startswith(f"{expected} in {count} (") for text in result.conclusions)
        assert any(text.startswith(expected) and text.endswith(f"better in {better}.") for text in result.conclusions)
    assert Path(result.path).with_suffix(".png").stat().st_size > 10_000


def test_counts_and_seeds(recorded: Path, tmp_path: Path) -> None:
    few = study(NumberOfModels(orders=1, seed=3, counts=[2, 100, 2]), recorded, tmp_path)
    assert [row["k"] for row in few.rows] == [2] * 4 + [5] * 4
    other = study(NumberOfModels(orders=1, seed=4, counts=[1]), recorded, tmp_path)
    assert len(other.details["orders"][0]) == 1
    assert len(other.conclusions) == 2  # of one model there is nothing to compare


def test_scores_that_were_not_recorded(recorded: Path, result: StudyResult, tmp_path: Path) -> None:
    for one in Ingredients.load(recorded):
        (tmp_path / f"{one.run}.ckpt").write_bytes(one.path.read_bytes())
    bare = study(NumberOfModels(orders=2, seed=3), str(tmp_path / "*.ckpt"), tmp_path, monitor="val_acc")
    for row, known in zip(bare.rows, result.rows, strict=True):
        assert [row[name] for name in ("k", "model", *NAMES)] == [known[name] for name in ("k", "model", *NAMES)]


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match="`orders` must be at least 1, got 0"):
        NumberOfModels(orders=0)
    with pytest.raises(ValueError, match="`counts` must be at least 1, got 0"):
        NumberOfModels(counts=[0, 2])
    with pytest.raises(ValueError, match="one or more numbers"):
        NumberOfModels(counts=[])
