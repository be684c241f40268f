"""Runs N fits over a search space; knows Optuna, not Lightning."""

import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from lightning_soups.lease import Lease
from lightning_soups.paths import AnyPath
from lightning_soups.score import Score
from lightning_soups.sweep.lease import WORKER, is_lost
from lightning_soups.sweep.sampling import Given, draw
from lightning_soups.sweep.space import extreme_values, parse_grid, parse_space
from lightning_soups.sweep.storage import open_storage, show_storage
from lightning_soups.sweep.taking_up import GIVEN, end, hand_back, parameters_of, take_up_lost
from lightning_soups.sweep.trial import Trial, UnrunnableError, trial_seed

Sampler = Literal["random", "grid", "tpe"]
_ERROR = "error"  # the trial attribute that says why a fit failed; trials without it were stopped, killed or surplus


class Sweep:
    """A sweep that continues where it stopped, and that any number of processes can run together.

    They share an Optuna study and nothing else. Its objective is always maximized: for a metric that is better when
    smaller it holds the negative.

    Args:
        dirpath: The soup directory.
        space: Config keys and what to draw for them.
        trials: How many trials have to succeed in all; None runs a whole grid.
        sampler: ``random``, ``grid`` or ``tpe``.
        seed: Every trial draws with a seed made of this and its number, so an interrupted sweep draws what an
            uninterrupted one does.
        storage: As in :func:`~lightning_soups.sweep.storage.open_storage`.
        study_name: Which sweep of the storage; None takes ``dirpath``, and ``sweep`` when ``storage`` is None.
        first: The number of trials that there were when this sweep was started; None counts them now. Trials that
            failed before are made up for, later ones are not.

    Attributes:
        extreme_values: What a config has to accept for every key.
        first: See above.

    Raises:
        ValueError: An argument has an impossible value, or the study was started with other settings.
    """

    def __init__(
        self,
        dirpath: AnyPath,
        space: Mapping[str, Any],
        trials: int | None,
        sampler: Sampler,
        seed: int,
        storage: str | None = None,
        study_name: str | None = None,
        first: int | None = None,
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
        if isinstance(dirpath, Path):
            dirpath.mkdir(parents=True, exist_ok=True)
        default_name = "sweep" if storage is None else str(dirpath)
        self._study = optuna.create_study(
            study_name=study_name or default_name,
            storage=open_storage(storage, dirpath),
            direction="maximize",
            load_if_exists=True,
        )
        self._where = f"study {self._study.study_name!r} in {show_storage(storage, dirpath)!r}"
        self._settings = {
            "space": {key: repr(distribution) for key, distribution in self._space.items()},
            "sampler": sampler,
            "seed": seed,
        }
        self._agree_on_settings()
        self.first = len(self._trials()) if first is None else first
        take_up_lost(self._study)

    @property
    def succeeded(self) -> int:
        """How many trials have succeeded, by every worker, now and earlier."""
        return len(self._trials(TrialState.COMPLETE))

    @property
    def running(self) -> int:
        """How many trials are being run, by every worker."""
        return len([trial for trial in self._trials(TrialState.RUNNING) if not is_lost(trial)])

    @property
    def failures(self) -> dict[int, str]:
        """Why trials have failed since the sweep was started, by their number."""
        failed = self._trials(TrialState.FAIL)
        return {
            trial.number: trial.user_attrs[_ERROR]
            for trial in failed
            if trial.number >= self.first and _ERROR in trial.user_attrs
        }

    @property
    def finished(self) -> int:
        """How many trials have succeeded or failed since the sweep was started."""
        new = [trial for trial in self._trials(TrialState.COMPLETE) if trial.number >= self.first]
        return len(new) + len(self.failures)

    @property
    def remaining(self) -> int:
        """How many trials nobody has succeeded with, is running, or has failed with since the sweep was started."""
        taken = [trial for trial in self._trials() if self._is_taken(trial)]
        missing = [] if self._requested is None else [max(0, self._requested - len(taken))]
        if self._sampler == "grid":
            undecided = sum(not parameters_of(trial) for trial in taken)
            missing.append(max(0, len(self._free_points(taken)) - undecided))
        return min(missing)

    def run(self, fit: Callable[[int, dict[str, Any]], Score | None], finished: Callable[[Trial], None]) -> list[Trial]:
        """Run trials until none remains. One that fails is noted and the rest go on.

        Args:
            fit: Runs one trial, given its number and parameters; returns its best score, None when the monitored
                metric was never finite.
            finished: Called after each trial.

        Returns:
            The trials that this process ran.

        Raises:
            UnrunnableError: Raised by ``fit``; no further trial is started.
            ValueError: The study has got other settings meanwhile.
        """
        done: list[Trial] = []
        while (claimed := self._claim()) is not None:
            done.append(self._run_one(claimed, fit))
            finished(done[-1])
        return done

    def _claim(self) -> optuna.Trial | None:
        """Ask for a trial, and give it back if another worker was faster; None when none remains."""
        while True:
            self._agree_on_settings()
            take_up_lost(self._study)
            if not self.remaining:
                return None
            asked = self._study.ask()
            if not self._is_surplus(asked.number) and (self._sampler != "grid" or self._take_point(asked)):
                return asked
            end(self._study, asked.number)

    def _run_one(self, asked: optuna.Trial, fit: Callable[[int, dict[str, Any]], Score | None]) -> Trial:
        started = time.monotonic()
        score: Score | None = None
        error: str | None = None
        try:
            with Lease(lambda lease: asked.set_user_attr(WORKER, lease)):
                sampler = self._make_sampler(trial_seed(self._seed, asked.number))
                self._study.sampler = Given(asked.user_attrs.get(GIVEN, {}), sampler)
                draw(asked, self._space)
                score = fit(asked.number, asked.params)
            if score is None:
                error = "diverged: the monitored metric was never a finite number"
        except UnrunnableError:
            end(self._study, asked.number)
            raise
        except BrokenPipeError:  # nobody reads what is printed: whoever started this worker is gone
            hand_back(self._study, self._trials()[asked.number])
            raise
        except Exception as caught:  # any fault of a user's model is one trial's, not the sweep's
            error = f"{type(caught).__name__}: {caught}"
        except BaseException:
            hand_back(self._study, self._trials()[asked.number])
            raise
        if not self._note(asked, score, error):
            score, error = None, "other workers thought that this one had been killed, and run its parameters again"
        return Trial(asked.number, asked.params, score, error, time.monotonic() - started)

    def _note(self, asked: optuna.Trial, score: Score | None, error: str | None) -> bool:
        if score is not None:
            return end(self._study, asked.number, score.value if score.mode == "max" else -score.value)
        try:
            asked.set_user_attr(_ERROR, error)
        except RuntimeError:  # Optuna's, for a trial that has ended
            return False
        return end(self._study, asked.number)

    def _make_sampler(self, seed: int) -> BaseSampler:
        return TPESampler(seed=seed) if self._sampler == "tpe" else RandomSampler(seed)

    def _is_taken(self, trial: FrozenTrial) -> bool:
        """Whether a trial is done, under way, or has been tried since this sweep was started."""
        if trial.state == TrialState.RUNNING:
            return not is_lost(trial)
        tried = trial.state == TrialState.FAIL and trial.number >= self.first and _ERROR in trial.user_attrs
        return tried or trial.state == TrialState.COMPLETE

    def _is_surplus(self, number: int) -> bool:
        """Whether workers that asked at the same moment have got more trials than remain; the first ones go ahead."""
        ahead = [
            trial
            for trial in self._trials()
            if trial.state == TrialState.COMPLETE
            or (trial.number < number and (trial.state == TrialState.WAITING or self._is_taken(trial)))
        ]
        return self._requested is not None and len(ahead) >= self._requested

    def _take_point(self, asked: optuna.Trial) -> bool:
        """Note a point of the grid that no other trial has; False if there is none.

        Of two workers that note the same point, the later one sees it, and takes another.
        """
        while True:
            trials = self._trials()
            others = [
                trial
                for trial in trials
                if trial.number != asked.number and (trial.state == TrialState.WAITING or self._is_taken(trial))
            ]
            own = parameters_of(trials[asked.number])
            if own and own not in map(parameters_of, others):
                return True
            free = self._free_points(others)
            undecided = sum(trial.number < asked.number and not parameters_of(trial) for trial in others)
            if undecided >= len(free):
                return False
            asked.set_user_attr(GIVEN, free[undecided])

    def _free_points(self, taken: list[FrozenTrial]) -> list[dict[str, Any]]:
        points = [dict(zip(self._grid, values, strict=True)) for values in itertools.product(*self._grid.values())]
        visited = [parameters_of(trial) for trial in taken]
        return [point for point in points if point not in visited]

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)

    def _agree_on_settings(self) -> None:
        """Compare the settings with those that the study was started with."""
        known = self._study.user_attrs
        if not self._trials():  # nothing has been drawn yet, so a mistake can still be mended
            known = {}
        for name, own in self._settings.items():
            if name not in known:
                self._study.set_user_attr(name, own)
            elif known[name] != own:
                raise ValueError(
                    f"The {self._where} was started with another {_SHOWN[name]}: {known[name]}. Now: {own}. Every"
                    " worker needs the same; for a new sweep use another `dirpath` or `study_name`."
                )


_SHOWN = {"space": "search space", "sampler": "sampler", "seed": "base seed (`seed_everything`)"}
