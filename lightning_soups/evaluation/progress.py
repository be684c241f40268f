"""What is shown while a recipe runs: how far it is, and the pass that is being made."""

import time
from contextlib import suppress
from datetime import timedelta
from types import TracebackType

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from lightning_soups.trace import Question, leading
from lightning_soups.visible import visible


class RecipeProgress:
    """One bar for the recipe and one for the pass; quiet when Lightning's bar is off.

    Lightning's own bar leaves a line behind for every pass and cannot share the terminal with another live display, so
    it is switched off while these are on.

    Args:
        trainer: The trainer that cooks.
        recipe: The recipe's name.
        candidates: How many candidates it is expected to ask about.
    """

    def __init__(self, trainer: Trainer, recipe: str, candidates: int) -> None:
        bar = trainer.progress_bar_callback
        shown = bar is not None and not getattr(bar, "is_disabled", False) and trainer.is_global_zero
        self._lightning_bar: ProgressBar | None = bar if shown else None
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[text]}", markup=False),
            disable=not shown,
        )
        self._recipe = self._progress.add_task(recipe, total=candidates or None, text="")
        self._pass = self._progress.add_task("pass", total=None, text="")
        self._candidates = candidates
        self._asked = 0
        self._kept = 1
        self._best: Question | None = None
        self._started = time.monotonic()

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

    def begin_pass(self, batches: float) -> None:
        """A pass begins that has so many batches."""
        total = None if batches == float("inf") else int(batches)
        self._progress.reset(self._pass, total=total, text="")

    def batch(self) -> None:
        """One more batch is done."""
        self._progress.advance(self._pass)
        task = self._progress.tasks[self._pass]
        total = "?" if task.total is None else int(task.total)
        elapsed = timedelta(seconds=int(time.monotonic() - self._started))  # rich's own stops when a bar is full once
        self._progress.update(self._pass, text=f"batch {int(task.completed)} of {total}, {elapsed} in all")

    def measured(self, label: str) -> None:
        """A model has been measured on the test data."""
        self._asked += 1
        self._progress.update(self._recipe, text=visible(f"{self._asked} measured on test data, last: {label}"))

    def answer(self, row: Question, saved: float) -> None:
        """A question has its answer.

        Args:
            row: The question.
            saved: Share of samples that did not have to be evaluated so far, against a full pass for every question.
        """
        self._best = leading(self._best, row)
        if row.accepted is not None:
            self._asked += 1
            self._kept += row.accepted
            self._progress.advance(self._recipe)
        count = f"{self._asked} of {max(self._candidates, self._asked)}, {self._kept} kept, " if self._asked else ""
        best = f"best {self._best.score}, " if self._best is not None else ""
        text = f"{count}{best}{saved:.0%} of samples saved"
        self._progress.update(self._recipe, text=text)
