"""The benchmarks that compare and scale, at their smallest."""

import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SMALLEST = {"size": "tiny", "image_size": 16, "held_out": 40, "train": 64, "epochs": 2, "batch_size": 16, "workers": 0}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a benchmark the way its command does; it then runs in this process, since starting others is slow."""
    monkeypatch.syspath_prepend(BENCHMARKS)

    def import_benchmark(name: str) -> ModuleType:
        module = importlib.import_module(name)
        monkeypatch.setattr(module, "run_alone", lambda function, *args, **kwargs: function(*args, **kwargs))
        return module

    return import_benchmark


@pytest.mark.parametrize("model", ["vit", "cnn"])
def test_all_sides_choose_the_same(load: Callable[[str], ModuleType], tmp_path: Path, model: str) -> None:
    load("greedy").main(model, **SMALLEST, ingredients=3, directory=tmp_path / "work", output=tmp_path / "greedy.json")
    report = json.loads((tmp_path / "greedy.json").read_text())
    sides = report["sides"]
    cooks = ["published", "validate", "ours", "ours_without_early_rejection"]
    assert list(sides) == [*cooks, "floor"]
    assert sides["published"]["samples_evaluated"] == 5 * 40
    for cook in cooks:
        assert sides[cook]["members"] == sides["published"]["members"]
        assert sides[cook]["scores"] == pytest.approx(sides["published"]["scores"], abs=1e-6)
        assert sides[cook]["samples_evaluated"] <= sides["published"]["samples_evaluated"]
        assert {"passes", "seconds", "peak_memory_bytes"} <= set(sides[cook])
    assert {"seconds published / ours", "seconds validate / ours", "full pass ours / floor"} <= set(report["ratios"])


def test_a_side_that_chooses_differently_fails(load: Callable[[str], ModuleType]) -> None:
    check = load("greedy").check_agreement
    side = {"members": ["a", "b"], "scores": [0.5, 0.75]}
    check({"published": side, "ours": side})
    with pytest.raises(SystemExit, match="members differ"):
        check({"published": side, "ours": {**side, "members": ["a", "c"]}})
    with pytest.raises(SystemExit, match="scores differ"):
        check({"published": side, "ours": {**side, "scores": [0.5, 0.7501]}})


def test_questions_are_counted_as_everything_grows(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    path = tmp_path / "scaling.json"
    load("scaling").main(**SMALLEST, ingredients=[2, 3], factors=[1, 2], directory=tmp_path / "work", output=path)
    report = json.loads(path.read_text())
    assert [(run["ingredients"], run["early_rejection"]) for run in report["by_ingredients"]] == [
        (2, True),
        (2, False),
        (3, True),
        (3, False),
    ]
    assert [run["held_out"] for run in report["by_held_out"]] == [40, 80]
    assert [run["processes"] for run in report["by_processes"]] == [1, 2]
    assert len({tuple(run["members"]) for run in report["by_processes"]}) == 1
    assert all(run["all"]["questions"] >= run["ingredients"] for run in report["by_ingredients"])


def test_memory_of_inner_products_is_compared(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    load("geometry").main(1, few=2, many=3, repeats=2, output=str(tmp_path / "geometry.json"))
    report = json.loads((tmp_path / "geometry.json").read_text())
    assert {name: side["checkpoints"] for name, side in report["sides"].items()} == {
        "ours few": 2,
        "ours many": 3,
        "stacked few": 2,
    }
    assert report["max_relative_difference_from_stacked"] < 1e-12
    assert all(len(side["seconds"]) == 2 for side in report["sides"].values())
    assert {"peak many / few", "seconds per checkpoint many / few", "seconds stacked / ours"} <= set(report["ratios"])


def test_a_part_runs_in_a_process_of_its_own(load: Callable[[str], ModuleType]) -> None:
    assert importlib.import_module("alone").run_alone(os.getpid) != os.getpid()


def test_a_directory_of_other_settings_is_refused(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    arguments = {**SMALLEST, "ingredients": 1, "directory": tmp_path / "work"}
    greedy = load("greedy")
    greedy.main(**arguments)
    with pytest.raises(ValueError, match="other settings"):
        greedy.main(**{**arguments, "held_out": 41})


def test_memory_of_learning_is_compared(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    load("learned").main(width=16, few=2, many=3, steps=1, output=str(tmp_path / "learned.json"))
    report = json.loads((tmp_path / "learned.json").read_text())
    assert set(report["peak_in_checkpoints"]) == {"2", "3"}
    assert report["steps"] == 1


def test_batch_norm_at_its_smallest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    path = tmp_path / "batch_norm.json"
    importlib.import_module("batch_norm").main(ingredients=2, epochs=1, batches=2, output=str(path))
    soups = json.loads(path.read_text())["soups"]
    assert len(soups) == 6
    assert soups["uniform, average"]["statistics"] is None
    assert soups["uniform, recalculate"]["score"] >= soups["uniform, average"]["score"]


def test_checks_are_measured_against_none(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    checks = load("checks")
    checks.WIDTH = 8
    checks.main(megabytes=1e-3, checkpoints=2, samples=8, repeats=1, output=tmp_path / "checks.json")
    report = json.loads((tmp_path / "checks.json").read_text())
    for recipe in ("GreedySoup", "UniformSoup"):
        assert len(report[recipe]["wall"]["seconds_with"]) == 1
        assert report[recipe]["processor"]["ratio_of_fastest"] > 0
