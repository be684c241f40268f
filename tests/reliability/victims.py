"""What is killed: fits that record and cooks, of tiny networks, the same to the last bit whenever they run."""

import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from lightning_soups import (
    GreedySoup,
    LearnedSoup,
    PrunedSoup,
    Recipe,
    Soup,
    SoupCallback,
    SoupTrainer,
    UniformSoup,
    files,
)
from lightning_soups.evaluation.journal import Journal
from lightning_soups.weights import fingerprint
from tests.helpers import CLASSES, FEATURES, Blobs, Classifier, blobs, trainer
from tests.reliability import processes
from tests.reliability.steps import watch_batches

RUN, BEGUN = "victim", "begun"
BATCH, NOTED, SAVED = "b", "|", "s"


class Ordered(Blobs):
    """Training data in one order, so that a fit that resumes sees what an undisturbed one sees."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader(blobs(self.train, seed=1), batch_size=self.batch_size)


class Plain(Classifier):
    """Goes up and down, and has momentum, which a fit that resumes has to take up."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


class Normalized(Plain):
    """With BatchNorm, whose statistics are recalculated for every mixture."""

    def __init__(self, lr: float = 0.05) -> None:
        super().__init__(lr)
        self.net = nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, CLASSES))


MODULES: dict[str, type[Classifier]] = {"plain": Plain, "normalized": Normalized}


@dataclass(frozen=True)
class Fit:
    """A fit that records.

    Args:
        lr: Its learning rate.
        module: A key of :data:`MODULES`.
        top_k: See ``SoupCallback``.
        epochs: How many.
        run: The run's name.
    """

    lr: float = 1.0
    module: str = "plain"
    top_k: int = 2
    epochs: int = 5
    run: str = RUN

    @property
    def name(self) -> str:
        return f"record {self.module}, save_top_k={self.top_k}"


@dataclass(frozen=True)
class Cooking:
    """A cook.

    Args:
        recipe: A key of :func:`recipes`.
        output: A file or folder in ``soups``.
        module: A key of :data:`MODULES`.
        before: Whether another soup is there already under this name.
        options: More for ``cook``.
        exchange: Whether the system can let two folders change places.
    """

    recipe: str
    output: str
    module: str = "plain"
    before: bool = False
    options: tuple[tuple[str, Any], ...] = ()
    exchange: bool = True

    @property
    def name(self) -> str:
        options = "".join(f", {name}={value}" for name, value in self.options)
        return f"cook {self.recipe}, {self.module}, {self.output}{options}" + (
            ", over a soup" * self.before + ", without exchange" * (not self.exchange)
        )


def recipes() -> dict[str, Recipe]:
    """Those that are cooked, by name."""
    learned = LearnedSoup(steps=12, batch_size=40)
    return {"greedy": GreedySoup(), "pruned": PrunedSoup(), "learned": learned, "uniform": UniformSoup()}


class Told(Callback):
    """Writes down every epoch that has been validated, and recorded if it was worth it: after ``SoupCallback``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            mark = fingerprint(pl_module.state_dict())
            append(self._path, f"{trainer.current_epoch} {trainer.global_step} {mark}\n")
            processes.step("told")


def append(path: Path, text: str) -> None:
    """Add a line at once; what was added survives the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


def quiet() -> None:
    """No warnings and no log, and every start the same."""
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.manual_seed(0)


def fit(case: Fit, soups: Path, told: Path, training: Path) -> None:
    """Fit and record; resumes from ``training/last.ckpt`` when that is there, as a preempted job does.

    Args:
        case: What to fit.
        soups: The soup directory.
        told: The file that epochs are written down in.
        training: Where Lightning keeps its own checkpoints.
    """
    quiet()
    _count_batches()
    module = MODULES[case.module](lr=case.lr)
    last = training / "last.ckpt"
    if not last.exists():
        append(told, f"{BEGUN}\n")
    callbacks = [
        SoupCallback(soups, "val_acc", save_top_k=case.top_k, run=case.run),
        Told(told),
        ModelCheckpoint(training, save_last=True, save_on_train_epoch_end=True),
    ]
    fitting = trainer(enable_checkpointing=True, callbacks=callbacks, max_epochs=case.epochs)
    fitting.fit(module, datamodule=Ordered(batch_size=16), ckpt_path=last if last.exists() else None, weights_only=True)


def cook(case: Cooking, soups: Path, work: Path) -> dict[str, Any]:
    """Cook.

    Args:
        case: What to cook.
        soups: The soup directory.
        work: The file that is told what this process does, on a line of its own: a character for every batch, finished
            evaluation and saved state of a recipe.

    Returns:
        What was chosen.
    """
    quiet()
    append(work, "\n")
    _watch_work(work)
    if not case.exchange:
        files.exchange = lambda one, other: False
    module = MODULES[case.module]()
    before, training = fingerprint(module.state_dict()), module.training
    soup = trainer(SoupTrainer).cook(
        module,
        datamodule=Ordered(batch_size=16),
        ingredients=soups,
        recipe=recipes()[case.recipe],
        output=str(soups / "soups" / case.output),
        **dict(case.options),
    )
    untouched = fingerprint(module.state_dict()) == before and module.training == training and not _hooks(module)
    return {**described(soup), "untouched": untouched}


def described(soup: Soup) -> dict[str, Any]:
    """All that must be the same however often a cook was killed."""
    return {
        "members": [(one.name, coefficient) for one, coefficient in soup.mixture.coefficients.items()],
        "layers": {layer: list(own.values()) for layer, own in soup.mixture.layers.items()},
        "score": soup.score.value,
        "metrics": soup.metrics,
        "weights": fingerprint(soup.state_dict()),
        "asked": [
            (row.label, [one.name for one in row.mixture], row.accepted, None if row.early else row.score.value)
            for row in soup.trace
        ],
        "batch_norm": soup.batch_norm,
    }


@cache
def _count_batches() -> None:
    watch_batches(Classifier, partial(processes.step, "batch"))


@cache
def _watch_work(work: Path) -> None:
    def on_batch() -> None:
        append(work, BATCH)
        processes.step("batch")

    watch_batches(Classifier, on_batch)
    for name, character in (("note", NOTED), ("save_state", SAVED)):
        setattr(Journal, name, _followed_by(getattr(Journal, name), partial(append, work, character)))


def _followed_by(function: Callable[..., Any], action: Callable[[], None]) -> Callable[..., Any]:
    def followed(*args: Any, **kwargs: Any) -> Any:
        value = function(*args, **kwargs)
        action()
        return value

    return followed


def _hooks(module: nn.Module) -> int:
    return sum(
        len(getattr(part, name))
        for part in module.modules()
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    )
