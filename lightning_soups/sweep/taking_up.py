"""Trials whose worker was killed or stopped: their parameters are queued, to be tried again under a new number."""

from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from lightning_soups.sweep.lease import is_lost

_QUEUED, _ATTEMPT = "queued", "attempt"  # trial attributes
_ATTEMPTS = 3  # parameters that end their worker every time must not end every worker


def queue(study: optuna.Study, parameters: dict[str, Any], attempt: int = 1) -> None:
    """Leave parameters for whoever asks next."""
    study.enqueue_trial(parameters, user_attrs={_QUEUED: parameters, _ATTEMPT: attempt})


def parameters_of(trial: FrozenTrial) -> dict[str, Any]:
    """What a trial runs with, also before it has drawn it."""
    return {**trial.user_attrs.get(_QUEUED, {}), **trial.params}


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
        queue(study, parameters, attempt + 1)


def end(study: optuna.Study, number: int, value: float | None = None) -> bool:
    """Mark a running trial as complete with a value, or as failed without one.

    Returns:
        False if another worker has ended it before.
    """
    try:
        study.tell(number, value, TrialState.FAIL if value is None else TrialState.COMPLETE)
    except UpdateFinishedTrialError:
        return False
    except ValueError:
        if study.get_trials(deepcopy=False)[number].state == TrialState.RUNNING:
            raise
        return False
    return True
