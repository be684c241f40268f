"""Small real modules and an independent reference for the greedy recipe."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from lightning_soups import Ingredient, Soup, SoupCallback
from lightning_soups.content import content_hash

FEATURES, CLASSES = 6, 3
shards_on_cpu = pytest.mark.skipif(
    not hasattr(torch.cpu.Stream, "record_event"), reason="torch 2.6 has fully_shard for accelerators only"
)


def blobs(samples: int, seed: int, noise: float = 1.6) -> TensorDataset:
    """Three overlapping Gaussian classes around fixed centres."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(CLASSES, (samples,), generator=generator)
    return TensorDataset(centres[labels] + noise * torch.randn(samples, FEATURES, generator=generator), labels)


class Blobs(LightningDataModule):
    def __init__(self, train: int = 96, held_out: int = 101, batch_size: int = 32) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.train, self.held_out, self.batch_size = train, held_out, batch_size

    def train_dataloader(self) -> DataLoader:
        return DataLoader(blobs(self.train, seed=1), batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(blobs(self.held_out, seed=2), batch_size=self.batch_size)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(blobs(50, seed=3), batch_size=self.batch_size)


class Classifier(LightningModule):
    """An MLP that logs a torchmetrics accuracy and a plain loss."""

    def __init__(self, lr: float = 0.05, hidden: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.net = nn.Sequential(nn.Linear(FEATURES, hidden), nn.Tanh(), nn.Linear(hidden, CLASSES))
        self.val_acc = MulticlassAccuracy(CLASSES, average="micro")
        self.test_acc = MulticlassAccuracy(CLASSES, average="micro")

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        logits = self(batch[0])
        self.val_acc(logits, batch[1])
        self.log("val_acc", self.val_acc)
        self.log("val_loss", nn.functional.cross_entropy(logits, batch[1]))

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.test_acc(self(batch[0]), batch[1])
        self.log("test_acc", self.test_acc)

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self(batch[0]).argmax(dim=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}


def trainer(cls: type[Trainer] = Trainer, **kwargs) -> Trainer:
    return cls(**{**QUIET, "accelerator": "cpu", "devices": 1, "max_epochs": 2, **kwargs})


def record(
    directory: Path,
    lrs: Sequence[float],
    make: Callable[..., LightningModule] = Classifier,
    monitor: str = "val_acc",
    datamodule: LightningDataModule | None = None,
    mode: str | None = None,
    seed: int = 0,
) -> None:
    """Record one ingredient per learning rate, all from the same initialization."""
    for number, lr in enumerate(lrs):
        torch.manual_seed(seed)
        module = make(lr=lr)
        torch.manual_seed(100 + number)
        callback = SoupCallback(directory, monitor, mode=mode, run=f"run-{number:02d}")
        trainer(callbacks=[callback]).fit(module, datamodule=datamodule or Blobs())


def resave(path: Path, checkpoint: dict[str, Any]) -> None:
    """Save a recorded checkpoint again, and say so in its record, as if it had been recorded like this."""
    torch.save(checkpoint, path)
    record = path.with_suffix(".json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "sha256": content_hash(path)}))


def reference_greedy(
    state_dicts: Sequence[dict[str, Tensor]], evaluate: Callable[[dict[str, Tensor]], float], mode: str = "max"
) -> tuple[list[int], list[float]]:
    """The published greedy recipe as a plain loop: float64 means of whole state dicts, accept on >=.

    Returns:
        The members, in the order in which they joined, and the scores: of each ingredient, then of each candidate.
    """
    sign = 1 if mode == "max" else -1
    singles = [evaluate(state_dict) for state_dict in state_dicts]
    order = sorted(range(len(singles)), key=lambda i: (-sign * singles[i], i))
    members, best, scores = [order[0]], singles[order[0]], list(singles)
    for candidate in order[1:]:
        chosen = [*members, candidate]
        score = evaluate(mean([state_dicts[i] for i in chosen]))
        scores.append(score)
        if sign * score >= sign * best:
            members, best = chosen, score
    return members, scores


def assert_same_scores(soup: Soup, ingredients: Sequence[Ingredient], scores: list[float]) -> None:
    """Compare a greedy soup's answers with the reference's: of each ingredient, then of each candidate."""
    singles = {row.mixture.members[0]: row.score.value for row in soup.trace if len(row.mixture) == 1}
    assert [singles[ingredient] for ingredient in ingredients] == pytest.approx(scores[: len(ingredients)], abs=1e-6)
    candidates = [row for row in soup.trace if row.accepted is not None]
    assert len(candidates) == len(scores) - len(ingredients)
    for row, score in zip(candidates, scores[len(ingredients) :], strict=True):
        if row.early:
            assert not row.accepted
            sign = 1 if row.score.mode == "max" else -1
            assert sign * row.score.value >= sign * score - 1e-6
        else:
            assert row.score.value == pytest.approx(score, abs=1e-6)


def mean(state_dicts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {
        name: torch.stack([state_dict[name].double() for state_dict in state_dicts]).mean(dim=0).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in state_dicts[0].items()
    }
