"""What loggers get of a study: its table, its figure and its conclusions."""

from lightning.pytorch import Trainer

from lightning_soups.loggers.destinations import Destinations
from lightning_soups.loggers.table import Table
from lightning_soups.studies import Study, StudyResult
from lightning_soups.studies.result import columns


def log_study(trainer: Trainer, name: str, study: Study, result: StudyResult) -> None:
    """Log what a study found to the user's loggers. Of several processes the first one logs.

    Args:
        trainer: Whose loggers.
        name: Of the study, for the names of what is logged: ``study/<name>/…``.
        study: The study, which draws its figure.
        result: What it found.
    """
    to, prefix = Destinations(trainer), f"study/{name}"
    to.options(prefix, {"options": dict(result.options), "monitor": result.monitor, "metric": result.metric})
    names = columns(result.rows)
    to.table(f"{prefix}/rows", Table(names, [[row.get(key) for key in names] for row in result.rows]))
    to.table(
        f"{prefix}/conclusions", Table(["conclusion"], [[text] for text in (*result.conclusions, *result.caveats)])
    )
    to.figure(f"{prefix}/figure", lambda: study.draw(result))
