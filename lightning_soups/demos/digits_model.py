"""A small classifier for the digits."""

import math
import os

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy

from lightning_soups.weights import read_checkpoint

_PIXELS, _HIDDEN, _CLASSES = 64, 128, 10


class DigitsClassifier(LightningModule):
    """An MLP, 64 → 128 → 128 → 10, with LayerNorm and GELU after each hidden layer.

    AdamW with 10 % of warm-up and a cosine decay.

    Args:
        lr: Peak learning rate.
        weight_decay: AdamW's weight decay.
        label_smoothing: From 0 to 1.
        mixup: α of the Beta distribution that mixes pairs of training images (arXiv:1710.09412); 0 for none.
        initialization: A checkpoint to start training from, head included; None starts from random weights.
    """

    def __init__(
        self,
        lr: float = 3e-3,
        weight_decay: float = 0.01,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        initialization: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self._lr = lr
        self._weight_decay = weight_decay
        self._label_smoothing = label_smoothing
        self._mixup = mixup
        self._initialization = initialization
        self.network = nn.Sequential(
            nn.Flatten(),
            *(nn.Linear(_PIXELS, _HIDDEN), nn.LayerNorm(_HIDDEN), nn.GELU()),
            *(nn.Linear(_HIDDEN, _HIDDEN), nn.LayerNorm(_HIDDEN), nn.GELU()),
            nn.Linear(_HIDDEN, _CLASSES),
        )
        self.val_acc = MulticlassAccuracy(_CLASSES, average="micro")

    def setup(self, stage: str) -> None:
        """Start a fit from the initialization; not in ``__init__``, so that loading a soup does not need the file."""
        if stage == "fit" and self._initialization is not None:
            self.load_state_dict(read_checkpoint(self._initialization)["state_dict"])

    def forward(self, images: Tensor) -> Tensor:
        """Classify images, shape (N, 1, 8, 8); returns logits, shape (N, 10)."""
        logits: Tensor = self.network(images)
        return logits

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy on a batch, mixed up if asked for."""
        images, labels = batch
        targets = functional.one_hot(labels, _CLASSES).float()
        if self._mixup > 0:
            share = torch.distributions.Beta(self._mixup, self._mixup).sample().to(images.device)
            other = torch.randperm(len(images), device=images.device)
            images = share * images + (1 - share) * images[other]
            targets = share * targets + (1 - share) * targets[other]
        loss = functional.cross_entropy(self(images), targets, label_smoothing=self._label_smoothing)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Held-out accuracy and loss."""
        images, labels = batch
        logits = self(images)
        self.val_acc(logits, labels)
        self.log("val_acc", self.val_acc, prog_bar=True)
        self.log("val_loss", functional.cross_entropy(logits, labels))

    def test_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Accuracy on each test set, under its name where the datamodule has names."""
        images, labels = batch
        names = getattr(getattr(self.trainer, "datamodule", None), "test_names", None)
        name = names[dataloader_idx] if names else str(dataloader_idx)
        accuracy = (self(images).argmax(dim=1) == labels).float().mean()
        self.log(f"test_acc/{name}", accuracy, batch_size=len(labels), add_dataloader_idx=False)

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Predicted classes, shape (N,)."""
        logits: Tensor = self(batch[0])
        return logits.argmax(dim=1)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with a schedule per step."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self._lr, weight_decay=self._weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        warmup = max(1, steps // 10)

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
