"""Who runs a trial, and whether they still do."""

from optuna.trial import FrozenTrial

from lightning_soups.lease import has_ended, has_expired

WORKER = "worker"  # the trial attribute that holds a lease


def is_lost(trial: FrozenTrial) -> bool:
    """Whether the worker of a running trial is gone; one without a lease counts as gone when it began long ago."""
    lease = trial.user_attrs.get(WORKER)
    if lease is None:
        assert trial.datetime_start is not None
        return has_expired(trial.datetime_start.timestamp())
    return has_ended(lease)
