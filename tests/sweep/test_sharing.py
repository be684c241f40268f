"""Several real processes that share one sweep, on every kind of storage."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from lightning_soups import lease as leases
from lightning_soups.score import Score
from lightning_soups.sweep import lease
from lightning_soups.sweep.storage import open_storage, show_storage
from lightning_soups.sweep.sweep import Sweep
from lightning_soups.sweep.taking_up import GIVEN
from lightning_soups.sweep.trial import Trial

SPACE = {"x": {"uniform": [0, 1]}, "n": {"integer": [1, 3]}}
GRID = {"x": {"categorical": [0.1, 0.2, 0.3]}, "n": {"integer": [1, 2]}}
SERVER = "LIGHTNING_SOUPS_TEST_DATABASE"  # the URL of an empty database that tests may write to
fork = multiprocessing.get_context("fork")

Fit = Callable[[int, dict[str, Any]], Score | None]


@pytest.fixture(params=["sqlite", "journal", "server"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    if request.param == "server":
        if SERVER not in os.environ:
            pytest.skip(f"{SERVER} names no database, such as postgresql+psycopg://user@localhost/name")
        return os.environ[SERVER]
    return None if request.param == "sqlite" else str(tmp_path / "shared" / "sweep.journal")


def sweep(path: Path, storage: str | None, trials: int | None, sampler="random", space=SPACE, seed=0) -> Sweep:
    return Sweep(path, space, trials, sampler, seed, storage)


def score(number: int, parameters: dict[str, Any]) -> Score:
    time.sleep(0.05)  # long enough that others get a trial as well
    return Score(parameters["x"], "max")


def start(count: int, work: Callable[[], list[Trial]]) -> list[list[Trial]]:
    """Run the same work in several processes that start at the same moment."""
    barrier, results = fork.Barrier(count), fork.Queue()

    def worker() -> None:
        barrier.wait()
        results.put(work())

    processes = [fork.Process(target=worker) for _ in range(count)]
    for process in processes:
        process.start()
    done = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    return done


def test_workers_share_the_trials_and_draw_what_one_worker_does(tmp_path: Path, storage: str | None) -> None:
    ran = start(3, lambda: sweep(tmp_path, storage, 8).run(score, lambda trial: None))
    assert sum(len(own) > 0 for own in ran) > 1
    together = {trial.number: trial.parameters for own in ran for trial in own}
    assert sum(map(len, ran)) == len(together) == 8
    alone = sweep(tmp_path / "alone", str(tmp_path / "alone.journal"), max(together) + 1).run(score, lambda trial: None)
    assert all(alone[number].parameters == parameters for number, parameters in together.items())
    assert sweep(tmp_path, storage, 8).remaining == 0
    assert sweep(tmp_path, storage, 8).succeeded == 8


def test_workers_run_each_point_of_a_grid_once(tmp_path: Path, storage: str | None) -> None:
    ran = start(3, lambda: sweep(tmp_path, storage, None, "grid", GRID).run(score, lambda trial: None))
    points = [tuple(trial.parameters.values()) for own in ran for trial in own]
    assert sorted(points) == [(x, n) for x in (0.1, 0.2, 0.3) for n in (1, 2)]


def test_of_two_workers_that_note_the_same_point_the_later_one_takes_another(tmp_path: Path) -> None:
    """Neither had seen the other's note when it chose."""
    own = sweep(tmp_path, str(tmp_path / "sweep.journal"), None, "grid", GRID)
    point = {"x": 0.1, "n": 1}
    earlier, later = own._study.ask(), own._study.ask()
    for asked in (later, earlier):
        asked.set_user_attr(GIVEN, point)
    assert own._take_point(earlier)
    assert earlier.user_attrs[GIVEN] != point
    assert own._take_point(later)
    assert later.user_attrs[GIVEN] == point


def test_when_everything_fails_workers_that_start_together_stop(tmp_path: Path) -> None:
    journal = str(tmp_path / "sweep.journal")
    first = sweep(tmp_path, journal, 6).first

    def fail(number: int, parameters: dict[str, Any]) -> None:
        raise RuntimeError("bug")

    ran = start(3, lambda: Sweep(tmp_path, SPACE, 6, "random", 0, journal, first=first).run(fail, lambda trial: None))
    assert sum(map(len, ran)) == 6
    again = sweep(tmp_path, journal, 6)
    assert again.remaining == 6
    assert len(again.run(score, lambda trial: None)) == 6


def run_until_killed(path: Path, storage: str | None, number: int, **kwargs) -> None:
    """A worker that gets SIGKILL in the middle of a trial."""

    def fit(trial: int, parameters: dict[str, Any]) -> Score:
        if trial == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return score(trial, parameters)

    process = fork.Process(target=lambda: sweep(path, storage, **kwargs).run(fit, lambda trial: None))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("sampler", ["random", "grid"])
def test_a_killed_trial_is_tried_again_with_the_same_parameters(
    tmp_path: Path, storage: str | None, sampler: str
) -> None:
    space = GRID if sampler == "grid" else SPACE
    run_until_killed(tmp_path, storage, 2, trials=4, sampler=sampler, space=space)
    again = sweep(tmp_path, storage, 4, sampler, space)
    trials = again._trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE", "FAIL", "WAITING"]
    assert again.remaining == 2
    done = again.run(score, lambda trial: None)
    assert [trial.number for trial in done] == [3, 4]
    assert done[0].parameters == trials[2].params
    assert done[1].parameters != done[0].parameters
    assert again.succeeded == 4


def test_parameters_that_kill_every_worker_are_given_up_after_three_attempts(tmp_path: Path) -> None:
    journal = str(tmp_path / "sweep.journal")
    for number in (1, 2, 3):
        run_until_killed(tmp_path, journal, number, trials=2)
    bad = [trial.params for trial in sweep(tmp_path, journal, 2)._trials()[1:]]
    assert bad[0] == bad[1] == bad[2]
    (done,) = sweep(tmp_path, journal, 2).run(score, lambda trial: None)
    assert done.number == 4
    assert done.parameters != bad[0]


def test_a_running_trial_counts_as_taken(tmp_path: Path, storage: str | None) -> None:
    started, end = fork.Event(), fork.Event()

    def fit(number: int, parameters: dict[str, Any]) -> Score:
        started.set()
        assert end.wait(60)
        return Score(0.5, "max")

    process = fork.Process(target=lambda: sweep(tmp_path, storage, 1).run(fit, lambda trial: None))
    process.start()
    assert started.wait(60)
    other = sweep(tmp_path, storage, 1)
    assert (other.running, other.remaining, other.succeeded) == (1, 0, 0)
    assert other.run(score, lambda trial: None) == []
    end.set()
    process.join()
    assert (other.running, other.remaining, other.succeeded) == (0, 0, 1)


def test_workers_of_another_machine_live_as_long_as_their_lease(
    tmp_path: Path, storage: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_REFRESHED", 0.2)  # oftener, an SQLite file would always be locked
    own = sweep(tmp_path, storage, 1)

    def fit(number: int, parameters: dict[str, Any]) -> Score:
        first = own._trials()[0].user_attrs[lease.WORKER]
        deadline = time.monotonic() + 60
        while own._trials()[0].user_attrs[lease.WORKER]["seen"] == first["seen"]:
            assert time.monotonic() < deadline
        ((again,),) = start(1, elsewhere)
        assert again.parameters == parameters
        return Score(1.0, "max")

    def elsewhere() -> list[Trial]:
        leases.machine = lambda: "another"
        assert sweep(tmp_path, storage, 1).running == 1
        leases._EXPIRES = -60.0
        assert sweep(tmp_path, storage, 1).running == 0
        return sweep(tmp_path, storage, 1).run(score, lambda trial: None)

    (thought_dead,) = own.run(fit, lambda trial: None)
    assert "other workers thought that this one had been killed" in thought_dead.error
    assert own.succeeded == 1


def test_a_process_with_the_number_of_a_dead_one_is_not_taken_for_it(tmp_path: Path) -> None:
    journal = str(tmp_path / "sweep.journal")
    own = sweep(tmp_path, journal, 1)

    def fit(number: int, parameters: dict[str, Any]) -> Score:
        (trial,) = own._trials()
        assert not lease.is_lost(trial)
        trial.user_attrs[lease.WORKER] = {**trial.user_attrs[lease.WORKER], "started": 0.0, "seen": 0.0}
        assert lease.is_lost(trial)
        return Score(1.0, "max")

    (done,) = own.run(fit, lambda trial: None)
    assert done.error is None


def test_trials_that_were_killed_before_there_were_leases_are_taken_up(tmp_path: Path, monkeypatch) -> None:
    """As in a ``sweep.db`` of earlier versions."""
    journal = str(tmp_path / "sweep.journal")
    own = sweep(tmp_path, journal, 1)
    asked = own._study.ask()
    assert asked.suggest_float("x", 0, 1) is not None
    assert sweep(tmp_path, journal, 1).remaining == 0  # it may have been started this moment
    monkeypatch.setattr(leases, "_EXPIRES", -60.0)
    (again,) = sweep(tmp_path, journal, 1).run(score, lambda trial: None)
    assert again.parameters["x"] == asked.params["x"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"space": {"x": {"uniform": [0, 2]}}}, "another search space"),
        ({"space": GRID, "sampler": "grid"}, "another search space"),
        ({"sampler": "tpe"}, "another sampler: random. Now: tpe"),
        ({"seed": 5}, r"another base seed \(`seed_everything`\): 0. Now: 5"),
    ],
)
def test_workers_have_to_agree(tmp_path: Path, other: dict[str, Any], message: str) -> None:
    journal = str(tmp_path / "sweep.journal")
    sweep(tmp_path, journal, 1).run(score, lambda trial: None)
    with pytest.raises(ValueError, match=message):
        sweep(tmp_path, journal, 2, **other)


def test_a_worker_whose_sweep_was_redefined_meanwhile_stops(tmp_path: Path, storage: str | None) -> None:
    first = sweep(tmp_path, storage, 2)
    sweep(tmp_path, storage, 2, seed=1).run(score, lambda trial: None)
    with pytest.raises(ValueError, match="another base seed"):
        first.run(score, lambda trial: None)


def test_one_storage_holds_several_sweeps(tmp_path: Path) -> None:
    shared = str(tmp_path / "all.journal")
    for dirpath, trials in (("a", 1), ("b", 2)):
        sweep(tmp_path / dirpath, shared, trials).run(score, lambda trial: None)
    own = Sweep(tmp_path / "a", SPACE, 3, "tpe", 0, shared, study_name="third")
    assert own.succeeded == 0
    names = optuna.get_all_study_names(open_storage(shared, tmp_path))
    assert names == [(tmp_path / "a").as_posix(), (tmp_path / "b").as_posix(), "third"]


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("sweep.db", r"ends in .journal or .log, or a database URL.*got 'sweep.db'"),
        ("oracel://user:secret@host/db", r"'oracel://user:\*\*\*@host/db' cannot be opened"),
        ("postgresql+nodriver://user:secret@host/db", "cannot be opened"),
        ("postgresql+psycopg://user:secret@127.0.0.1:1/db", "cannot be opened"),
        ("sqlite:////nowhere/at/all.db", "unable to open database file"),
        ("mysql://user:secret@host:port/db", "cannot be opened"),
    ],
)
def test_a_storage_that_does_not_open_is_quoted_without_its_password(
    tmp_path: Path, storage: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        open_storage(storage, tmp_path)
    assert "secret" not in str(caught.value)
    assert "secret" not in show_storage(storage, tmp_path)
