"""One progress bar for a whole recipe."""

import time
from contextlib import suppress
from datetime import timedelta
from types import TracebackType

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

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
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("batches {task.fields[so_far]}"),
            TextColumn("{task.fields[elapsed]}"),
            disable=not shown,
        )
        self._task = self._progress.add_task("Cooking", total=None, so_far="", elapsed="")
        self._started = time.monotonic()
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

    def ask(self, batches: float) -> None:
        """A new question, and how many batches a pass takes."""
        self._asked += 1
        total = None if batches == float("inf") else int(batches)
        self._progress.update(self._task, description=f"Question {self._asked}", completed=0, total=total)

    def batch(self) -> None:
        """One more batch is done."""
        elapsed = timedelta(seconds=int(time.monotonic() - self._started))  # rich's own stops when a bar is full once
        self._progress.update(self._task, advance=1, elapsed=str(elapsed))

    def answer(self, row: Question) -> None:
        """The question has its answer."""
        if self._best is None or row.score > self._best.score or (row.accepted and row.score >= self._best.score):
            self._best = row
        so_far = f"best {self._best.score} with {len(self._best.mixture)}"
        self._progress.update(self._task, so_far=so_far)
