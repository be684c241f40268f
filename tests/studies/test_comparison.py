"""Against plain PyTorch, a bootstrap in plain Python and exact binomial tails."""

import csv
import math
import random
from fractions import Fraction
from pathlib import Path
from statistics import fmean

import pytest
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassF1Score

from lightning_soups import Comparison, GreedySoup, Ingredients, LearnedSoup, ModelStock, StudyResult, UniformSoup
from tests.helpers import CLASSES, mean, record
from tests.studies.plain import (
    NAMES,
    ManyTests,
    PlainNumbers,
    averaged,
    greedy,
    logits,
    losses,
    right,
    study,
    weights,
)

LRS = [0.02, 0.1, 0.3, 0.6, 1.2]
RECIPES = [UniformSoup(), GreedySoup()]
SHIFT = "mean of 2 shifted datasets"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("soups")
    record(directory, LRS)
    return directory


@pytest.fixture(scope="module")
def result(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return study(Comparison(RECIPES, seed=1), recorded, tmp_path_factory.mktemp("study"))


def outputs(directory: Path, name: str) -> dict[str, Tensor]:
    states = weights(Ingredients.load(directory))
    members = [states[i] for i in greedy(states)]
    return {
        "best single": logits(members[0], name),
        "uniform soup": logits(mean(states), name),
        "greedy soup": logits(mean(members), name),
        "ensemble of all": averaged(states, name),
        "ensemble of greedy members": averaged(members, name),
    }


def interval(samples: list[list[float]], draws: int = 4000) -> tuple[float, float]:
    """Percentiles of the mean over datasets of resampled mean differences."""
    draw = random.Random(0)
    means = sorted(fmean(fmean(draw.choices(own, k=len(own))) for own in samples) for _ in range(draws))
    return means[round(0.025 * draws)], means[round(0.975 * draws)]


def test_values_differences_members_and_cost(recorded: Path, result: StudyResult) -> None:
    found = {name: outputs(recorded, name) for name in NAMES}
    members = len(greedy(weights(Ingredients.load(recorded))))
    size = {"uniform soup": 5, "greedy soup": members, "ensemble of all": 5, "ensemble of greedy members": members}
    expected = [(dataset, model) for dataset in ("plain", SHIFT, "noisy", "noisier") for model in found["plain"]]
    assert [(row["dataset"], row["model"]) for row in result.rows] == expected
    for row in result.rows:
        model, over = row["model"], NAMES[1:] if row["dataset"] == SHIFT else (row["dataset"],)
        value, best = (fmean(float(right(found[n][one], n).mean()) for n in over) for one in (model, "best single"))
        assert row["value"] == pytest.approx(value, abs=1e-6)
        assert row["difference"] == pytest.approx(value - best, abs=1e-6)
        assert row["members"] == size.get(model, 1)
        assert row["cost"] == (size[model] if model.startswith("ensemble") else 1)


def test_intervals_are_those_of_a_paired_bootstrap(recorded: Path, result: StudyResult) -> None:
    differences = {}
    for name in NAMES:
        own = {model: right(one, name) for model, one in outputs(recorded, name).items()}
        differences[name] = {model: (one - own["best single"]).tolist() for model, one in own.items()}
    for row in result.rows:
        if row["model"] == "best single":
            assert (row["low"], row["high"], row["p value"]) == (None, None, None)
            continue
        over = NAMES[1:] if row["dataset"] == SHIFT else (row["dataset"],)
        low, high = interval([differences[name][row["model"]] for name in over])
        assert [row["low"], row["high"]] == pytest.approx([low, high], abs=1.01 / 45), row
        if row["dataset"] == SHIFT:
            assert row["high"] - row["low"] == pytest.approx(high - low, rel=0.1, abs=1e-9)


def test_p_values_are_those_of_mcnemar(recorded: Path, result: StudyResult) -> None:
    for row in result.rows:
        if row["dataset"] == SHIFT:
            assert row["p value"] is None
        elif row["model"] != "best single":
            found = outputs(recorded, row["dataset"])
            ours, best = (right(found[model], row["dataset"]) for model in (row["model"], "best single"))
            b, c = int((ours > best).sum()), int((best > ours).sum())
            tail = Fraction(2 * sum(math.comb(b + c, i) for i in range(min(b, c) + 1)), 2 ** (b + c))
            assert row["p value"] == pytest.approx(float(min(tail, Fraction(1))), rel=1e-9)


def test_conclusions_say_what_is_clear_and_what_is_not(result: StudyResult) -> None:
    for place, title in enumerate(("plain", SHIFT)):
        text = result.conclusions[place]
        assert text.startswith(f"{title}: ")
        for row in result.rows:
            if row["dataset"] != title or row["model"] == "best single":
                continue
            clear = row["low"] > 0 or row["high"] < 0
            verdict = ("better" if row["low"] > 0 else "worse") + " than" if clear else "no clear difference to"
            part = next(part for part in text.split("; ") if f"{row['model']} (" in part)
            assert verdict in part
    assert "not what other training runs would" in result.conclusions[2]


def test_files_can_be_read_elsewhere(result: StudyResult) -> None:
    rows = list(csv.DictReader(result.path.with_suffix(".csv").open(encoding="utf-8")))
    assert [row["model"] for row in rows] == [row["model"] for row in result.rows]
    assert float(rows[1]["low"]) == result.rows[1]["low"]
    assert result.path.with_suffix(".png").stat().st_size > 10_000
    assert StudyResult.load(result.path).rows == result.rows


def test_a_loss_has_intervals_but_no_p_values(recorded: Path, tmp_path: Path) -> None:
    how = {"monitor": "val_loss", "mode": "min", "metric": "test_loss"}
    found = study(Comparison([UniformSoup()]), recorded, tmp_path, PlainNumbers(), **how)
    states = weights(Ingredients.load(recorded))
    scores = [float(losses(logits(one, "held-out"), "held-out").mean()) for one in states]
    best = states[scores.index(min(scores))]
    uniform = next(r for r in found.rows if (r["dataset"], r["model"]) == ("noisy", "uniform soup"))
    difference = losses(logits(mean(states), "noisy"), "noisy") - losses(logits(best, "noisy"), "noisy")
    assert uniform["difference"] == pytest.approx(float(difference.mean()), abs=1e-5)
    error = float(difference.std(correction=0)) / len(difference) ** 0.5
    assert uniform["high"] - uniform["low"] == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert uniform["p value"] is None
    verdict = found.conclusions[0].split("uniform soup (")[0]
    plain = next(r for r in found.rows if (r["dataset"], r["model"]) == ("plain", "uniform soup"))
    assert ("better" in verdict) == (plain["high"] < 0)


def test_without_values_of_samples_there_are_no_intervals(recorded: Path, tmp_path: Path) -> None:
    class MacroF1(ManyTests):
        def __init__(self) -> None:
            super().__init__()
            self.accuracies = torch.nn.ModuleList(MulticlassF1Score(CLASSES, average="macro") for _ in NAMES)

    found = study(Comparison([UniformSoup()]), recorded, tmp_path, MacroF1())
    assert {(row["low"], row["p value"]) for row in found.rows} == {(None, None)}
    assert len(found.conclusions) == 1
    assert "No intervals where test_acc is no mean over samples" in found.conclusions[0]
    assert found.path.with_suffix(".png").exists()


def test_only_the_models_that_are_nan_have_no_intervals(recorded: Path, tmp_path: Path) -> None:
    for one in Ingredients.load(recorded)[:2]:
        (tmp_path / f"{one.run}.ckpt").write_bytes(one.path.read_bytes())
    broken = torch.load(tmp_path / f"{one.run}.ckpt", weights_only=True)
    broken["state_dict"] = {name: torch.full_like(value, 3e38) for name, value in broken["state_dict"].items()}
    torch.save(broken, tmp_path / "nan.ckpt")
    how = {"monitor": "val_loss", "mode": "min", "metric": "test_loss"}
    found = study(Comparison(RECIPES), str(tmp_path / "*.ckpt"), tmp_path, PlainNumbers(), **how)
    gone = {row["model"] for row in found.rows if row["low"] is None} - {"best single"}
    assert gone == {"uniform soup", "ensemble of all"}
    where = f"(plain, {SHIFT}, noisy, noisier)"
    told = f"whose test_loss is NaN or infinite: uniform soup {where}, ensemble of all {where}."
    assert any(text.endswith(told) for text in found.conclusions)
    assert not any("is no mean over samples" in text for text in found.conclusions)
    assert any("not what other training runs would" in text for text in found.conclusions)


def test_a_best_model_that_is_infinite_has_nothing_to_compare_with(recorded: Path, tmp_path: Path) -> None:
    class Infinite(PlainNumbers):
        """On one dataset, for every model."""

        def test_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
            loss = torch.tensor(math.inf if dataloader_idx == 1 else 1.0) * self(batch[0]).exp().mean()
            self.log(f"test_loss/{NAMES[dataloader_idx]}", loss, add_dataloader_idx=False)

    how = {"monitor": "val_loss", "mode": "min", "metric": "test_loss"}
    found = study(Comparison([UniformSoup()]), recorded, tmp_path, Infinite(), **how)
    (text,) = [text for text in found.conclusions if text.startswith("No intervals")]
    assert f"best single ({SHIFT}, noisy), uniform soup ({SHIFT}, noisy)" in text
    assert text.endswith(" Nothing can be compared with the best single model there.")


def test_what_cannot_be_cooked_is_left_out_with_a_reason(recorded: Path, tmp_path: Path) -> None:
    for one in Ingredients.load(recorded):
        (tmp_path / f"{one.run}.ckpt").write_bytes(one.path.read_bytes())
    recipes = [ModelStock(), LearnedSoup(loss="nothing"), UniformSoup()]
    found = study(Comparison(recipes), str(tmp_path / "*.ckpt"), tmp_path, monitor="val_acc")
    assert list(dict.fromkeys(row["model"] for row in found.rows)) == ["best single", "uniform soup", "ensemble of all"]
    left_out = [text for text in found.conclusions if text.startswith("Left out")]
    assert "the ModelStock." in left_out[0]
    assert "the learned soup." in left_out[1]


def test_the_same_seed_gives_the_same_intervals(recorded: Path, result: StudyResult, tmp_path: Path) -> None:
    again = study(Comparison(RECIPES, seed=1), recorded, tmp_path / "a")
    other = study(Comparison(RECIPES, seed=2, resamples=500), recorded, tmp_path / "b")
    assert again.rows == result.rows
    assert [row["low"] for row in other.rows] != [row["low"] for row in result.rows]


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match="`resamples` must be at least 1, got 0"):
        Comparison(resamples=0)
    with pytest.raises(ValueError, match="one or more recipes"):
        Comparison([])
