"""Handwritten digits: the data and the network."""

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.functional import accuracy


class DigitsData(pl.LightningDataModule):
    def __init__(self, batch_size: int = 64):
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage=None):
        digits = load_digits()
        images = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)
        labels = torch.tensor(digits.target)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        self.train, self.val, self.test = (
            TensorDataset(images[part], labels[part]) for part in order.split([900, 400, 497])
        )

    def train_dataloader(self):
        return DataLoader(self.train, self.hparams.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, 200)

    def test_dataloader(self):
        return DataLoader(self.test, 200)


class DigitsNet(pl.LightningModule):
    def __init__(self, width: int, lr: float = 1e-3):
        super().__init__()
        self.save_hyperparameters()
        self.conv = nn.Conv2d(1, width, kernel_size=3)
        self.head = nn.Linear(9 * width, 10)

    def forward(self, images):
        return self.head(nn.functional.max_pool2d(torch.relu(self.conv(images)), 2).flatten(1))

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return nn.functional.cross_entropy(self(images), labels)

    def validation_step(self, batch, batch_idx):
        self.log_accuracy("val_acc", batch)

    def test_step(self, batch, batch_idx):
        self.log_accuracy("test_acc", batch)

    def log_accuracy(self, name, batch):
        images, labels = batch
        self.log(name, accuracy(self(images), labels, task="multiclass", num_classes=10), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
