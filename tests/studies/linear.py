"""A model whose outputs are linear in its weights: soups are ensembles, and squared losses are quadratic."""

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy

from tests.helpers import CLASSES, FEATURES
from tests.studies.plain import NAMES, StateDict, dataset


class Linear(LightningModule):
    """One layer, in float64; logs an accuracy and the squared distance to the one-hot label."""

    def __init__(self, lr: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.layer = nn.Linear(FEATURES, CLASSES, dtype=torch.float64)
        self.val_acc = MulticlassAccuracy(CLASSES, average="micro")

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.double())

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return squared(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        outputs = self(batch[0])
        self.val_acc(outputs, batch[1])
        self.log("val_acc", self.val_acc)
        self.log("val_loss", squared(outputs, batch[1]))

    def test_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        outputs, name = self(batch[0]), NAMES[dataloader_idx]
        right = (outputs.argmax(dim=1) == batch[1]).double().mean()
        self.log(f"test_acc/{name}", right, add_dataloader_idx=False)
        self.log(f"test_loss/{name}", squared(outputs, batch[1]), add_dataloader_idx=False)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def squared(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs - functional.one_hot(labels, CLASSES)).square().sum(dim=1).mean()


def squared_loss(state_dict: StateDict, name: str) -> float:
    """Without a module."""
    inputs, labels = dataset(name).tensors
    return float(squared(inputs.double() @ state_dict["layer.weight"].T + state_dict["layer.bias"], labels))


def flat(state_dict: StateDict) -> Tensor:
    """All parameters in one float64 vector."""
    return torch.cat([value.double().flatten() for value in state_dict.values()])


def unflat(vector: Tensor, like: StateDict) -> dict[str, Tensor]:
    parts = vector.split([value.numel() for value in like.values()])
    return {name: part.view(value.shape) for part, (name, value) in zip(parts, like.items(), strict=True)}
