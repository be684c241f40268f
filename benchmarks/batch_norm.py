"""What averaged and recalculated BatchNorm statistics do to soups of a small convolutional network on digits.

    python benchmarks/batch_norm.py --output batch_norm.json

Pretrains one network on real digits, fine-tunes it several times with learning rates around ``lr``, and cooks a uniform
and a greedy soup of them with each setting of ``batch_norm``. Scores are held-out accuracies in percent. Prints JSON.
"""

import itertools
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_soups import GreedySoup, Soup, SoupCallback, SoupTrainer, UniformSoup
from lightning_soups.demos.digits_data import Digits

_QUIET: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "accelerator": "cpu",
    "devices": 1,
}
_SPREAD = (0.5, 0.7, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0)  # learning rates, as multiples of the one in the middle


class ConvNet(LightningModule):
    """Eight 3×3 convolutions with BatchNorm and ReLU, for images of shape (N, 1, 8, 8) in ten classes.

    Args:
        lr: Adam's learning rate.
        width: Channels of the first four convolutions; the others have twice as many.
    """

    def __init__(self, lr: float = 1e-2, width: int = 16) -> None:
        super().__init__()
        self.save_hyperparameters()
        self._lr = lr
        channels = (1, *[width] * 4, *[2 * width] * 4)
        layers = [
            part
            for inputs, outputs in itertools.pairwise(channels)
            for part in (nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
        ]
        self.network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10))
        self.val_acc = MulticlassAccuracy(10, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (N, 10)."""
        logits: Tensor = self.network(images)
        return logits

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy of a batch."""
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Held-out accuracy."""
        self.val_acc(self(batch[0]), batch[1])
        self.log("val_acc", self.val_acc)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=self._lr)


def fine_tune(directory: Path, lr: float, ingredients: int, epochs: int, seed: int) -> None:
    """Pretrain one network, fine-tune copies of it, and record them."""
    seed_everything(seed, verbose=False)
    start = ConvNet()
    Trainer(**_QUIET, max_epochs=epochs).fit(start, datamodule=Digits(task="pretrain", seed=seed))
    for number in range(ingredients):
        seed_everything(1000 * (seed + 1) + number, verbose=False)
        network = ConvNet(lr * _SPREAD[number % len(_SPREAD)])
        network.load_state_dict(start.state_dict())
        record = SoupCallback(directory, "val_acc", run=f"run-{number:02d}")
        trainer = Trainer(**_QUIET, max_epochs=epochs, callbacks=[record])
        trainer.fit(network, datamodule=Digits(task="pretrain", augment=1 + number % 2, seed=seed))


def main(
    lr: float = 2e-2, ingredients: int = 6, epochs: int = 8, seed: int = 0, batches: int = 50, output: str | None = None
) -> None:
    """Fine-tune and cook.

    Args:
        lr: Learning rate of fine-tuning, around which ingredients differ.
        ingredients: How many.
        epochs: Of pretraining, and of each fine-tuning.
        seed: Decides everything that is random.
        batches: How many training batches to recalculate statistics on.
        output: Where to write the JSON as well.
    """
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    report: dict[str, Any] = {"lr": lr, "ingredients": ingredients, "epochs": epochs, "seed": seed, "soups": {}}
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        fine_tune(directory, lr, ingredients, epochs, seed)
        for name, recipe in (("uniform", UniformSoup()), ("greedy", GreedySoup())):
            for setting in ("average", "recalculate_final", "recalculate"):
                soup = SoupTrainer(**_QUIET).cook(
                    ConvNet(),
                    datamodule=Digits(task="pretrain", seed=seed),
                    ingredients=directory,
                    recipe=recipe,
                    batch_norm=setting,
                    batch_norm_batches=batches,
                    output=directory / "cooked" / f"{name}-{setting}.ckpt",
                )
                report["soups"][f"{name}, {setting}"] = described(soup)
    singles = sorted(row.score.value for row in soup.trace if len(row.mixture) == 1)
    report = {**report, "best_single": percent(singles[-1]), "worst_single": percent(singles[0])}
    text = json.dumps(report, indent=2)
    print(text)
    if output is not None:
        Path(output).write_text(text + "\n", encoding="utf-8")


def described(soup: Soup) -> dict[str, Any]:
    """A soup's score in percent, its members, and what its statistics are."""
    return {"score": percent(soup.score.value), "members": len(soup.ingredients), "statistics": soup.batch_norm}


def percent(share: float) -> float:
    """A share in percent, with two decimals."""
    return round(100 * share, 2)


if __name__ == "__main__":
    auto_cli(main)
