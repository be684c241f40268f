"""What the benchmarks cook: JPEG files, and checkpoints that real fine-tunes recorded."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from classifiers import Classifier
from held_out import Jpegs, write_jpegs
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_soups import SoupCallback

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
_LEARNING_RATES = {"tiny": 2e-3, "small": 5e-4, "large": 5e-4, "vit_b_32": 1e-4}  # of pretraining


@dataclass(frozen=True)
class Workload:
    """A model, its ingredients and its held-out data, the same whenever it is made.

    Args:
        model: ``vit`` or ``cnn``.
        size: ``tiny``, ``small`` or ``vit_b_32`` for a vit; ``tiny``, ``small`` or ``large`` for a cnn.
        image_size: Width and height of the images.
        ingredients: Number of fine-tunes.
        held_out: Number of held-out images.
        train: Number of training images.
        epochs: Epochs of pretraining.
        batch_size: Held-out batch size.
        workers: Processes that decode held-out images.
        accelerator: ``cpu`` or ``gpu``.
    """

    model: Literal["vit", "cnn"]
    size: str
    image_size: int
    ingredients: int
    held_out: int
    train: int
    epochs: int
    batch_size: int
    workers: int
    accelerator: Literal["cpu", "gpu"]

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return torch.device("cuda" if self.accelerator == "gpu" else "cpu")

    def module(self, **hyperparameters: float) -> Classifier:
        """A new module with random weights."""
        return Classifier(self.model, self.size, self.image_size, **hyperparameters)

    def trainer_arguments(self, **more: Any) -> dict[str, Any]:
        """What every ``Trainer`` is given."""
        return {**QUIET, "accelerator": self.accelerator, "devices": 1, **more}

    def loader(self, directory: Path) -> DataLoader[tuple[Tensor, int]]:
        """The held-out images, decoded by workers."""
        return DataLoader(
            Jpegs(directory / "images" / "held_out"),
            batch_size=self.batch_size,
            num_workers=self.workers,
            pin_memory=self.accelerator == "gpu",
        )

    def recorded(self, directory: Path) -> list[Path]:
        """The ingredients' checkpoints."""
        return sorted((directory / "soup" / "runs").glob("*/*.ckpt"))


def prepare(workload: Workload, directory: Path) -> None:
    """Write the images, pretrain, and record the fine-tunes; or keep what an earlier call left.

    Args:
        workload: What to make.
        directory: New, or of an earlier call with the same workload.

    Raises:
        ValueError: The directory holds something else.
    """
    settings = directory / "workload.json"
    wanted = asdict(workload)
    if settings.exists():
        if json.loads(settings.read_text()) != wanted:
            raise ValueError(f"{str(directory)!r} was made with other settings; give another directory or delete it.")
        return
    if directory.exists() and any(directory.iterdir()):
        raise ValueError(f"{str(directory)!r} is not empty and holds no finished workload; delete it.")
    write_jpegs(directory / "images", workload.train, workload.held_out, workload.image_size)
    train = Jpegs(directory / "images" / "train").decoded()
    held_out = Jpegs(directory / "images" / "held_out").decoded()
    _record(workload, train, held_out, directory / "soup")
    settings.write_text(json.dumps(wanted))


def _record(workload: Workload, train: Dataset[Any], held_out: Dataset[Any], directory: Path) -> None:
    """Pretrain, then fine-tune from the same weights with learning rates, weight decays and orders of their own."""
    validation = DataLoader(held_out, batch_size=workload.batch_size)
    torch.manual_seed(0)
    pretrained = workload.module(lr=_LEARNING_RATES[workload.size])
    trainer = Trainer(**workload.trainer_arguments(max_epochs=workload.epochs, limit_val_batches=0))
    trainer.fit(pretrained, DataLoader(train, batch_size=32, shuffle=True), validation)
    for number in range(workload.ingredients):
        torch.manual_seed(1 + number)
        exponent, decay = torch.rand(2).tolist()
        lr = _LEARNING_RATES[workload.size] * 0.03 * 20**exponent  # 0.03 to 0.6 times that of pretraining
        module = workload.module(lr=lr, weight_decay=0.1 * decay)
        module.load_state_dict(pretrained.state_dict())
        recorder = SoupCallback(directory, "val_acc", run=f"run-{number:03d}")
        trainer = Trainer(**workload.trainer_arguments(max_epochs=1, callbacks=[recorder]))
        trainer.fit(module, DataLoader(train, batch_size=32, shuffle=True), validation)
