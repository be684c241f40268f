"""Against mixed weights and averaged logits, dataset by dataset."""

from pathlib import Path
from statistics import fmean

import pytest

from lightning_soups import GreedySoup, Ingredients, InVersusOut, LearnedSoup, PrunedSoup, StudyResult, UniformSoup
from lightning_soups.evaluation.measurer import NoTestData
from lightning_soups.studies.in_versus_out import _conclusions
from tests.helpers import Blobs, Classifier, mean, record
from tests.studies.plain import (
    HELD_OUT,
    NAMES,
    PlainNumbers,
    accuracy,
    averaged,
    greedy,
    initialization,
    right,
    study,
    weights,
)

LRS = [0.02, 0.1, 0.3, 0.6, 1.2]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("soups")
    record(directory, LRS)
    return directory


@pytest.fixture(scope="module")
def bare(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same checkpoints without records, so that it is not known what they started from."""
    directory = tmp_path_factory.mktemp("bare")
    for one in Ingredients.load(recorded):
        (directory / f"{one.run}.ckpt").write_bytes(one.path.read_bytes())
    return str(directory / "*.ckpt")


@pytest.fixture(scope="module")
def result(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    recipes = [UniformSoup(), GreedySoup(), LearnedSoup(steps=12)]
    return study(InVersusOut(recipes), recorded, tmp_path_factory.mktemp("study"))


def test_every_model_on_every_dataset(recorded: Path, result: StudyResult) -> None:
    ingredients = Ingredients.load(recorded)
    states = dict(zip([one.run for one in ingredients], weights(ingredients), strict=True))
    everything = list(states.values())
    members = [everything[i] for i in greedy(everything)]
    paths = {str(one.path): states[one.run] for one in ingredients}
    learned = result.models["learned soup"]["coefficients"]
    assert sum(learned.values()) == pytest.approx(1)
    mixed = {
        name: sum(share * paths[path][name].double() for path, share in learned.items()).float()
        for name in everything[0]
    }
    single = {
        "initialization": initialization(recorded),
        "best single": members[0],
        "uniform soup": mean(everything),
        "greedy soup": mean(members),
        "learned soup": mixed,
        **states,
    }
    outputs = {"ensemble of all": everything, "ensemble of greedy members": members}
    assert {row["model"] for row in result.rows} == {*single, *outputs}
    for row in result.rows:
        name = row["model"]
        if name in outputs:
            found = {test: float(right(averaged(outputs[name], test), test).mean()) for test in NAMES}
            assert (row["kind"], row["held-out"], row["members"]) == ("ensemble", None, len(outputs[name]))
        else:
            found = {test: accuracy(single[name], test) for test in NAMES}
            assert row["kind"] == ("ingredient" if name in states else "model")
            assert row["held-out"] == pytest.approx(accuracy(single[name], HELD_OUT), abs=1e-6)
        assert [row[test] for test in NAMES] == pytest.approx([found[test] for test in NAMES], abs=1e-6), name
        assert row["mean shifted"] == pytest.approx(fmean([found["noisy"], found["noisier"]]), abs=1e-6)
    assert result.path.with_suffix(".png").stat().st_size > 10_000


def test_what_cannot_be_cooked_is_left_out_with_a_reason(bare: str, recorded: Path, tmp_path: Path) -> None:
    recipes = [LearnedSoup(loss="nothing"), UniformSoup()]
    found = study(InVersusOut(recipes), bare, tmp_path, monitor="val_acc")
    assert [row["model"] for row in found.rows][:3] == ["best single", "uniform soup", "ensemble of all"]
    assert any("the learned soup. `loss='nothing'` was not logged" in text for text in found.conclusions)
    assert any("Left out: the initialization." in text for text in found.conclusions)
    uniform = mean(weights(Ingredients.load(recorded)))
    for name in NAMES:  # what comes after the error is whole
        assert found.rows[1][name] == pytest.approx(accuracy(uniform, name), abs=1e-6)


def test_recipes_of_a_kind_are_told_apart(recorded: Path, tmp_path: Path) -> None:
    recipes = [GreedySoup(), GreedySoup(strict=True), PrunedSoup()]
    found = study(InVersusOut(recipes), recorded, tmp_path)
    names = ["greedy soup (strict=False)", "greedy soup (strict=True)", "pruned soup"]
    assert [row["model"] for row in found.rows][1:4] == names
    assert found.options["recipes"][1]["strict"] is True


def test_a_loss_is_better_when_it_is_less(recorded: Path, tmp_path: Path) -> None:
    how = {"monitor": "val_loss", "mode": "min", "metric": "test_loss"}
    found = study(InVersusOut([UniformSoup()]), recorded, tmp_path, PlainNumbers(), **how)
    singles = [row for row in found.rows if row["kind"] == "ingredient"]
    best = min(singles, key=lambda row: row["held-out"])
    text = f"The best single model on the held-out data, {best['model']}, has {best['mean shifted']:.4f} under shift"
    assert found.conclusions[0].startswith(text)
    better = sum(row["mean shifted"] < best["mean shifted"] for row in singles)
    expected = f"{better} of the other 4" if better else "which no other ingredient beats"
    assert expected in found.conclusions[0]


def test_without_shifted_data_there_is_nothing_to_compare(recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"all test datasets are in distribution: \['test'\].*in_distribution"):
        study(InVersusOut([UniformSoup()]), recorded, tmp_path, Classifier(), datamodule=Blobs())


def test_conclusions_name_the_pareto_front() -> None:
    measurer = NoTestData("acc", "max")
    measurer.datasets, measurer.in_distribution, measurer.shifted = ("in", "out"), ("in",), ("out",)

    def row(model: str, kind: str, inside: float, outside: float) -> dict:
        return {"model": model, "kind": kind, "mean in-distribution": inside, "mean shifted": outside}

    rows = [
        row("best single", "model", 0.9, 0.5),
        row("uniform soup", "model", 0.8, 0.7),
        row("greedy soup", "model", 0.9, 0.6),
        row("ensemble of all", "ensemble", 0.85, 0.75),
        row("a", "ingredient", 0.9, 0.5),
        row("b", "ingredient", 0.7, 0.65),
        row("c", "ingredient", 0.95, 0.1),
        row("diverged", "ingredient", float("nan"), float("nan")),
    ]
    first, uniform, better, front, beaten = _conclusions(rows, "a", measurer)
    assert "a, has 0.5000 under shift; 1 of the other 3 ingredients do better there, the best of them b" in first
    assert uniform == (
        "The uniform soup against the best single model: -0.1000 in in (in distribution), +0.2000 in out (shifted)."
        " It beats 2 of 4 ingredients in both."
    )
    assert "+0.0000 in in (in distribution), +0.1000" in better
    assert front.endswith(": uniform soup, greedy soup, c.")
    assert beaten.endswith(": uniform soup.")


def test_what_is_no_list_of_recipes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one or more recipes.*got \[\]"):
        InVersusOut([])
    with pytest.raises(ValueError, match="one or more recipes"):
        InVersusOut(["greedy"])
    with pytest.raises(ValueError, match=r"more than once.*'uniform soup'"):
        InVersusOut([UniformSoup(), GreedySoup(), UniformSoup()])
