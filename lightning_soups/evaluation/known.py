"""What needs no evaluation: answers given before, recorded scores, and the journal of a cook that was interrupted."""

from lightning_soups.evaluation.journal import Finding, Journal
from lightning_soups.evaluation.monitor import Monitor
from lightning_soups.mixture import Mixture
from lightning_soups.score import Score, validate_mode
from lightning_soups.trace import Question

Metrics = dict[str, float]


class KnownAnswers:
    """Remembers answers, here and in the journal.

    Args:
        monitor: The metric that scores are values of.
        journal: Keeps what is found out.

    Attributes:
        full: Scores and metrics of mixtures that were evaluated to the end.
        recorded: Scores of ingredients that stand for an evaluation.
        below: Of candidates that were rejected early the best that they could have reached.
    """

    def __init__(self, monitor: Monitor, journal: Journal) -> None:
        self._monitor = monitor
        self._journal = journal
        self.full: dict[Mixture, tuple[Score, Metrics]] = {}
        self.recorded: dict[Mixture, Score] = {}
        self.below: dict[Mixture, Score] = {}

    def score(self, mixture: Mixture, beat: Score | None) -> Score | None:
        """What this cook knows of a mixture; None when it must be found out."""
        if mixture in self.full:
            return self.full[mixture][0]
        if mixture in self.recorded:
            return self.recorded[mixture]
        below = self.below.get(mixture)
        return below if below is not None and _rules_out(below, beat) else None

    def recall(
        self, mixture: Mixture, beat: Score | None, label: str, kind: str = ""
    ) -> tuple[Question, Metrics | None] | None:
        """What an interrupted cook found of a mixture, as the row that it had in the trace, and the metrics.

        Args:
            mixture: What is asked about.
            beat: The score to reach, if there is one.
            label: What to call it in the trace.
            kind: See :meth:`Journal.recall`.
        """
        found = self._journal.recall(mixture, kind)
        if found is None:
            return None
        score, early = Score(found.value, validate_mode(found.mode)), found.metrics is None
        if early and not _rules_out(score, beat):
            return None
        self._monitor.mode = self._monitor.mode or score.mode
        accepted = None if beat is None else score >= beat
        counts = (found.batches, found.samples, found.seconds)
        return Question(mixture, score, accepted, *counts, cached=False, early=early, label=label), found.metrics

    def remember(self, mixture: Mixture, score: Score, metrics: Metrics | None) -> None:
        """An answer was found; it came early if there are no metrics."""
        if metrics is None:
            self.below[mixture] = score
        else:
            self.full[mixture] = score, metrics

    def write_down(self, row: Question, metrics: Metrics | None, kind: str = "") -> None:
        """Put an answer that was found into the journal."""
        counts = (row.batches, row.samples, row.seconds)
        self._journal.note(row.mixture, Finding(row.score.value, row.score.mode, metrics, *counts), kind)


def _rules_out(below: Score, beat: Score | None) -> bool:
    return beat is not None and not below >= beat
