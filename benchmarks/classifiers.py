"""The models of the benchmarks: a vision transformer and a convolutional network with BatchNorm."""

import itertools
import math
from collections import OrderedDict

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

_CLASSES = 10
_VITS = {  # width, layers, heads, patch
    "tiny": (32, 2, 2, 8),
    "small": (192, 4, 3, 16),
    "vit_b_32": (768, 12, 12, 32),
}
_CNNS = {"tiny": 8, "small": 32, "large": 128}  # width


class Classifier(LightningModule):
    """Logs a torchmetrics accuracy and a plain loss.

    Args:
        model: ``vit`` or ``cnn``.
        size: Its size by name.
        image_size: Width and height of the images.
        lr: AdamW's learning rate.
        weight_decay: AdamW's weight decay.
    """

    def __init__(self, model: str, size: str, image_size: int, lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        super().__init__()
        sizes = {"vit": list(_VITS), "cnn": list(_CNNS)}[model]
        if size not in sizes:
            raise ValueError(f"A {model} has the sizes {sizes}, got {size!r}.")
        self.save_hyperparameters()
        self.network = VisionTransformer(image_size, *_VITS[size]) if model == "vit" else cnn(_CNNS[size])
        self.val_acc = MulticlassAccuracy(_CLASSES, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (N, 10), of images, shape (N, 3, S, S)."""
        logits: Tensor = self.network(images)
        return logits

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy."""
        images, labels = batch
        return nn.functional.cross_entropy(self(images), labels)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log ``val_acc`` and ``val_loss``."""
        images, labels = batch
        logits = self(images)
        self.val_acc(logits, labels)
        self.log("val_acc", self.val_acc)
        self.log("val_loss", nn.functional.cross_entropy(logits, labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), self.hparams["lr"], weight_decay=self.hparams["weight_decay"])


class VisionTransformer(nn.Module):
    """A vision transformer (Dosovitskiy et al., arXiv:2010.11929) with pre-norm layers.

    Its patches are made by a stack of small convolutions (Xiao et al., arXiv:2106.14881), which learns from the few
    images that there are; the number of tokens and the layers after it are the same.
    """

    def __init__(self, image_size: int, width: int, layers: int, heads: int, patch: int) -> None:
        super().__init__()
        if image_size % patch:
            raise ValueError(f"`image_size` must be a multiple of the patch size {patch}, got {image_size}.")
        halvings = int(math.log2(patch))
        channels = [3, *(width >> max(halvings - 1 - i, 0) for i in range(halvings))]
        convolutions: list[nn.Module] = []
        for before, after in itertools.pairwise(channels):
            convolutions += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GELU()]
        self.patches = nn.Sequential(*convolutions[:-1])
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, (image_size // patch) ** 2 + 1, width))
        self.layers = nn.Sequential(
            *[
                nn.TransformerEncoderLayer(
                    width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
                )
                for _ in range(layers)
            ]
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, _CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images, shape (N, 3, S, S)."""
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), tokens], dim=1) + self.positions
        logits: Tensor = self.head(self.norm(self.layers(tokens)[:, 0]))
        return logits


def cnn(width: int) -> nn.Sequential:
    """Four stages that halve the resolution and double the channels, two convolutions with BatchNorm each."""
    stages = OrderedDict()
    before = 3
    for stage in range(4):
        channels = width * 2**stage
        stages[f"stage{stage}"] = nn.Sequential(
            nn.Conv2d(before, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        before = channels
    stages["head"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, _CLASSES))
    return nn.Sequential(stages)
