"""Trials whose worker was killed or stopped: their parameters are queued, to be tried again under a new number."""

from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from lightning_soups.sweep.lease import is_lost

GIVEN = "given"  # the trial attribute with what a trial has to run with; the rest it draws
_ATTEMPT = "attempt"
_ATTEMPTS = 3  # parameters that end their worker every time must not end every worker


def parameters_of(trial: FrozenTrial) -> dict[str, Any]:
    """What a trial runs with, also before it has drawn it."""
    return {**trial.user_attrs.get(GIVEN, {}), **trial.params}


def take_up_lost(study: optuna.Study) -> None:
    """Look for running trials whose worker is gone, and queue what they tried."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if is_lost(trial):
            hand_back(study, trial)


def hand_back(study: optuna.Study, trial: FrozenTrial) -> None:
    """End a trial that nobody runs any more, and queue what it tried unless that was its third attempt.

    Of workers that notice at the same time one does so.
    """
    if not end(study, trial.number):
        return
    attempt = trial.user_attrs.get(_ATTEMPT, 1)
    parameters = parameters_of(trial)
    if parameters and attempt < _ATTEMPTS:
        attributes = {GIVEN: parameters, _ATTEMPT: attempt + 1}
        study.add_trial(optuna.create_trial(state=TrialState.WAITING, user_attrs=attributes))


def end(study: optuna.Study, number: int, value: float | None = None) -> bool:
    """Mark a running trial as complete with a value, or as failed without one.

    Returns:
        False if another worker has ended it before.
    """
    try:
        study.tell(number, value, TrialState.FAIL if value is None else TrialState.COMPLETE)
    except (ValueError, RuntimeError):  # the first when it ended before, the second when at this moment
        if study.get_trials(deepcopy=False)[number].state == TrialState.RUNNING:
            raise
        return False
    return True
