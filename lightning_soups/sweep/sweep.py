"""Runs N fits over a search space; knows Optuna, not Lightning."""

import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from lightning_soups.score import Score
from lightning_soups.sweep.space import extreme_values, parse_grid, parse_space
from lightning_soups.sweep.trial import Trial, UnrunnableError, trial_seed

Sampler = Literal["random", "grid", "tpe"]


class Sweep:
    """A sweep that continues where it stopped. Finished trials are kept in ``<dirpath>/sweep.db`` (Optuna, SQLite).

    Optuna's objective is always maximized: for a metric that is better when smaller it holds the negative.

    Args:
        dirpath: The soup directory.
        space: Config keys and what to draw for them.
        trials: How many trials have to succeed in all; None runs a whole grid.
        sampler: ``random``, ``grid`` or ``tpe``.
        seed: Every trial draws with a seed made of this and its number, so an interrupted sweep draws what an
            uninterrupted one does.

    Attributes:
        extreme_values: What a config has to accept for every key.

    Raises:
        ValueError: An argument has an impossible value, or the sweep in ``dirpath`` has another search space.
    """

    def __init__(
        self, dirpath: Path, space: Mapping[str, Any], trials: int | None, sampler: Sampler, seed: int
    ) -> None:
        if sampler not in get_args(Sampler):
            raise ValueError(f"`sampler` must be one of {get_args(Sampler)}, got {sampler!r}.")
        self._space = parse_space(space)
        self.extreme_values = extreme_values(self._space)
        self._grid = parse_grid(self._space) if sampler == "grid" else {}
        if trials is None and sampler != "grid":
            raise ValueError(f"`trials` is required with sampler {sampler!r}: say how many fits to run.")
        if trials is not None and trials < 1:
            raise ValueError(f"`trials` must be at least 1, got {trials}.")
        self._requested = trials
        self._sampler: Sampler = sampler
        self._seed = seed
        dirpath.mkdir(parents=True, exist_ok=True)
        database = dirpath / "sweep.db"
        self._study = optuna.create_study(
            study_name="sweep",
            storage=f"sqlite:///{database.absolute()}",
            direction="maximize",
            load_if_exists=True,
        )
        _check_same_space(self._study, {key: repr(distribution) for key, distribution in self._space.items()}, database)

    @property
    def succeeded(self) -> int:
        """How many trials have succeeded, in this invocation and earlier ones."""
        return len(self._trials(TrialState.COMPLETE))

    @property
    def remaining(self) -> int:
        """How many trials :meth:`run` will start."""
        missing = [] if self._requested is None else [max(0, self._requested - self.succeeded)]
        unvisited = [len(self._unvisited())] if self._sampler == "grid" else []
        return min(missing + unvisited)

    def run(self, fit: Callable[[int, dict[str, Any]], Score | None], finished: Callable[[Trial], None]) -> list[Trial]:
        """Run the trials that are missing. One that fails is noted and the rest go on.

        Args:
            fit: Runs one trial, given its number and parameters; returns its best score, None when the monitored
                metric was never finite.
            finished: Called after each trial.

        Returns:
            The trials of this invocation.

        Raises:
            UnrunnableError: Raised by ``fit``; no further trial is started.
        """
        points = self._unvisited() if self._sampler == "grid" else []
        done: list[Trial] = []
        for index in range(self.remaining):
            if points:
                self._study.enqueue_trial(points[index])
            self._study.sampler = self._make_sampler(trial_seed(self._seed, len(self._trials())))
            trial = self._run_one(self._study.ask(self._space), fit)
            done.append(trial)
            finished(trial)
        return done

    def _run_one(self, asked: optuna.Trial, fit: Callable[[int, dict[str, Any]], Score | None]) -> Trial:
        started = time.monotonic()
        score: Score | None = None
        error: str | None = "stopped"
        try:
            score = fit(asked.number, asked.params)
            error = None if score is not None else "diverged: the monitored metric was never a finite number"
        except UnrunnableError:
            raise
        except Exception as caught:  # any fault of a user's model is one trial's, not the sweep's
            error = f"{type(caught).__name__}: {caught}"
        finally:
            if score is None:
                asked.set_user_attr("error", error)
                self._study.tell(asked, state=TrialState.FAIL)
            else:
                self._study.tell(asked, score.value if score.mode == "max" else -score.value)
        return Trial(asked.number, asked.params, score, error, time.monotonic() - started)

    def _make_sampler(self, seed: int) -> BaseSampler:
        return TPESampler(seed=seed) if self._sampler == "tpe" else RandomSampler(seed)

    def _unvisited(self) -> list[dict[str, Any]]:
        """The points of the grid that no trial has finished, failed ones included."""
        points = [dict(zip(self._grid, values, strict=True)) for values in itertools.product(*self._grid.values())]
        visited = [trial.params for trial in self._trials(TrialState.COMPLETE)]
        return [point for point in points if point not in visited]

    def _trials(self, *states: TrialState) -> list[optuna.trial.FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)


def _check_same_space(study: optuna.Study, space: dict[str, str], database: Path) -> None:
    if not study.get_trials(deepcopy=False):  # nothing has been drawn yet, so a mistake can still be mended
        study.set_user_attr("space", space)
    elif (known := study.user_attrs["space"]) != space:
        raise ValueError(
            f"The sweep in {str(database)!r} was started with another search space: {known}. Now: {space}. Use another"
            " `dirpath`, or delete that file to start a new sweep beside the ingredients that are there."
        )
