"""The sweep without Lightning: a fit is a function."""

from pathlib import Path
from typing import Any

import pytest

from lightning_soups.score import Score
from lightning_soups.sweep.sweep import Sweep
from lightning_soups.sweep.trial import Trial, UnrunnableError

SPACE = {"x": {"uniform": [0, 1]}, "n": {"integer": [1, 3]}}


def run(path: Path, trials: int | None, fit=None, space=SPACE, sampler="random", seed=0) -> list[Trial]:
    fit = fit or (lambda number, parameters: Score(parameters["x"], "max"))
    seen: list[Trial] = []
    assert Sweep(path, space, trials, sampler, seed).run(fit, seen.append) == seen
    return seen


def test_an_interrupted_sweep_draws_what_an_uninterrupted_one_does(tmp_path: Path) -> None:
    whole = run(tmp_path / "a", 7)
    parts = run(tmp_path / "b", 3) + run(tmp_path / "b", 7)
    assert [trial.parameters for trial in parts] == [trial.parameters for trial in whole]
    assert [trial.number for trial in parts] == list(range(7))
    assert len({trial.parameters["x"] for trial in whole}) == 7
    assert run(tmp_path / "b", 7) == []
    other = run(tmp_path / "c", 7, seed=1)
    assert not {trial.parameters["x"] for trial in other} & {trial.parameters["x"] for trial in whole}


def test_a_trial_that_fails_is_noted_and_made_up_for_later(tmp_path: Path) -> None:
    def fit(number: int, parameters: dict[str, Any]) -> Score | None:
        if number == 1:
            raise RuntimeError("out of memory")
        return None if number == 2 else Score(parameters["x"], "min")

    first = run(tmp_path, 4, fit)
    assert [trial.score is None for trial in first] == [False, True, True, False]
    assert first[1].error == "RuntimeError: out of memory"
    assert "diverged" in first[2].error
    again = run(tmp_path, 4, fit)
    assert [trial.number for trial in again] == [4, 5]
    assert Sweep(tmp_path, SPACE, 4, "random", 0).remaining == 0


def test_what_every_trial_would_run_into_stops_the_sweep(tmp_path: Path) -> None:
    def fit(number: int, parameters: dict[str, Any]) -> Score:
        raise UnrunnableError("no")

    with pytest.raises(UnrunnableError):
        run(tmp_path, 4, fit)
    assert len(run(tmp_path, 4)) == 4


def test_an_interrupt_stops_the_sweep_and_counts_for_nothing(tmp_path: Path) -> None:
    def fit(number: int, parameters: dict[str, Any]) -> Score:
        if number == 1:
            raise KeyboardInterrupt
        return Score(1.0, "max")

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 3, fit)
    assert [trial.number for trial in run(tmp_path, 3)] == [2, 3]


def test_a_grid_runs_every_combination_once(tmp_path: Path) -> None:
    space = {"x": {"categorical": [0.1, 0.2]}, "n": {"integer": [1, 3]}}
    failed: list[dict[str, Any]] = []

    def fit(number: int, parameters: dict[str, Any]) -> Score:
        if number == 3:
            failed.append(parameters)
            raise RuntimeError
        return Score(1.0, "max")

    first = run(tmp_path, 4, fit, space, "grid")
    rest = run(tmp_path, None, None, space, "grid")
    done = [tuple(trial.parameters.values()) for trial in first + rest if trial.error is None]
    assert sorted(done) == [(x, n) for x in (0.1, 0.2) for n in (1, 2, 3)]
    assert tuple(failed[0].values()) in {tuple(trial.parameters.values()) for trial in rest}
    assert run(tmp_path, None, None, space, "grid") == []


@pytest.mark.parametrize(("mode", "good"), [("max", 1.0), ("min", 0.0)])
def test_tpe_learns_which_direction_is_better(tmp_path: Path, mode: str, good: float) -> None:
    trials = run(tmp_path, 40, lambda number, parameters: Score(parameters["x"], mode), sampler="tpe")
    late = [abs(trial.parameters["x"] - good) for trial in trials[-10:]]
    assert sum(late) / len(late) < 0.25  # random search would give 0.5


def test_another_space_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    Sweep(tmp_path, {"typo": {"uniform": [0, 1]}}, 1, "random", 0)  # no trial has run, so this can be mended
    run(tmp_path, 1)
    with pytest.raises(ValueError, match=r"sweep\.db.*another search space.*another `dirpath`"):
        run(tmp_path, 2, space={"x": {"uniform": [0, 2]}})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trials": None}, "`trials` is required with sampler 'random'"),
        ({"trials": 0}, "at least 1, got 0"),
        ({"trials": 1, "sampler": "bayes"}, r"\('random', 'grid', 'tpe'\), got 'bayes'"),
        ({"trials": 1, "sampler": "grid"}, "'x' a continuous range"),
    ],
)
def test_impossible_arguments_are_refused(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **arguments)
