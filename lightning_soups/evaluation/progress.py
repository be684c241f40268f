"""One progress bar for a whole recipe."""

from contextlib import suppress
from types import TracebackType

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from lightning_soups.trace import Question


class RecipeProgress:
    """Shows the question being answered, its batches and the answers so far; quiet when Lightning's bar is off.

    Lightning's own bar would draw a line for every pass, so it is switched off while this one is on.

    Args:
        trainer: The trainer that cooks.
    """

    def __init__(self, trainer: Trainer) -> None:
        bar = trainer.progress_bar_callback
        shown = bar is not None and not getattr(bar, "is_disabled", False) and trainer.is_global_zero
        self._lightning_bar: ProgressBar | None = bar if shown else None
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("batches"),
            TextColumn("{task.fields[so_far]}"),
            TimeElapsedColumn(),
            disable=not shown,
        )
        self._task = self._progress.add_task("Cooking", total=None, so_far="")
        self._asked = 0
        self._best: Question | None = None

    def __enter__(self) -> "RecipeProgress":
        if self._lightning_bar is not None:
            with suppress(NotImplementedError):  # a user's own bar need not have a switch
                self._lightning_bar.disable()
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._lightning_bar is not None:
            with suppress(NotImplementedError):
                self._lightning_bar.enable()

    def ask(self, members: int, batches: float) -> None:
        """A new question: how many members the mixture has, and how many batches a pass takes."""
        self._asked += 1
        total = None if batches == float("inf") else int(batches)
        description = f"Question {self._asked}, {members} ingredient{'s' if members > 1 else ''}"
        self._progress.update(self._task, description=description, completed=0, total=total)

    def batch(self) -> None:
        """One more batch is done."""
        self._progress.advance(self._task)

    def answer(self, row: Question) -> None:
        """The question has its answer."""
        if self._best is None or row.score > self._best.score or (row.accepted and row.score >= self._best.score):
            self._best = row
        members = len(self._best.mixture)
        self._progress.update(self._task, so_far=f"best {self._best.score} ({members} in the mixture)")
