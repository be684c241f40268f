"""Random cooks: models near one basin or not, data of several shapes, metrics with and without a bound."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchmetrics
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchmetrics import Metric, classification

from lightning_soups import Soup, SoupTrainer
from tests.helpers import trainer

FEATURES, CLASSES = 5, 4
METRICS = {
    "micro": lambda: classification.MulticlassAccuracy(CLASSES, average="micro"),
    "macro": lambda: classification.MulticlassAccuracy(CLASSES, average="macro"),
    "f1": lambda: classification.MulticlassF1Score(CLASSES, average="macro"),
    "precision": lambda: classification.MulticlassPrecision(CLASSES, average="weighted"),
    "top2": lambda: classification.MulticlassRecall(CLASSES, average="macro", top_k=2),
    "hamming": lambda: classification.MulticlassHammingDistance(CLASSES, average="micro"),
    "specificity": lambda: classification.MulticlassSpecificity(CLASSES, average="macro"),
    "auroc": lambda: classification.MulticlassAUROC(CLASSES),
    "mse": lambda: torchmetrics.MeanSquaredError(),
    "rmse": lambda: torchmetrics.MeanSquaredError(squared=False),
}
PLAIN = ("loss", "weighted_loss", "root_per_batch", "exponential_per_batch", "signed", "accuracy", "mean_metric")
MODES = {"hamming": "min", "mse": "min", "rmse": "min", "accuracy": "max"}


@dataclass(frozen=True)
class Case:
    """What is decided by a seed."""

    seed: int
    monitor: str
    samples: tuple[int, ...]
    batch_size: int
    layout: str
    depends_on_batch: bool
    label_noise: float
    spread: float
    ingredients: int

    @classmethod
    def of(cls, seed: int) -> "Case":
        draw = random.Random(seed)
        return cls(
            seed=seed,
            monitor=draw.choice([*METRICS, *PLAIN, "micro", "macro", "loss"]),
            samples=tuple(draw.randint(4, 120) for _ in range(draw.choice([1, 1, 1, 2]))),
            batch_size=draw.choice([3, 7, 16, 32, 64, 200]),
            layout=draw.choice(["tensors", "dict", "ragged", "iterable", "shared"]),
            depends_on_batch=draw.random() < 0.1,
            label_noise=draw.choice([0.0, 0.1, 0.4]),
            spread=draw.choice([0.05, 0.3, 1.0]),
            ingredients=draw.randint(2, 8),
        )

    @property
    def mode(self) -> str:
        return MODES.get(self.monitor, "min" if self.monitor in PLAIN else "max")

    @property
    def the_same_on_any_number_of_processes(self) -> bool:
        """Not so for what depends on how samples are batched, and for streams that every process reads whole."""
        whole = self.layout != "iterable" and not self.depends_on_batch
        return whole and (self.monitor in METRICS or self.monitor in ("loss", "signed", "accuracy"))

    @property
    def counts(self) -> bool:
        """Whether the metric is computed from whole numbers."""
        return self.monitor in METRICS and self.monitor not in ("mse", "rmse", "auroc")

    @property
    def name(self) -> str:
        """The logged name; with two dataloaders the second one's."""
        return self.monitor if len(self.samples) == 1 else f"{self.monitor}/dataloader_idx_1"


class Rows(Dataset):
    def __init__(self, case: Case, loader: int) -> None:
        generator = torch.Generator().manual_seed(1000 * case.seed + loader)
        count = case.samples[loader]
        self.x = torch.randn(count, FEATURES, generator=generator)
        self.y = (self.x @ _true_weight().T).argmax(dim=1)
        noisy = torch.rand(count, generator=generator) < case.label_noise
        self.y[noisy] = torch.randint(CLASSES, (int(noisy.sum()),), generator=generator)
        self.lengths = torch.randint(1, 4, (count,), generator=generator).tolist()

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> Any:
        return self.x[index], self.y[index], self.lengths[index]


class Stream(IterableDataset):
    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __iter__(self):
        return (self.rows[index] for index in range(len(self.rows)))


def tensors(items: list) -> Any:
    return [torch.stack([item[0] for item in items]), torch.stack([item[1] for item in items])]


def dictionary(items: list) -> Any:
    x, y = tensors(items)
    return {"inputs": {"x": x}, "y": y}


def ragged(items: list) -> Any:
    """The same features in a padded sequence, as long as the longest of the batch, with a list of strings."""
    longest = max(item[2] for item in items)
    x = torch.zeros(len(items), longest, FEATURES)
    for row, item in enumerate(items):
        x[row, : item[2]] = item[0]
    lengths = torch.tensor([item[2] for item in items])
    return {"x": x, "lengths": lengths, "y": torch.stack([item[1] for item in items]), "names": ["a"] * len(items)}


class Linear(LightningModule):
    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case
        self.net = nn.Linear(FEATURES, CLASSES)
        self.metrics = nn.ModuleList(METRICS.get(case.monitor, torchmetrics.MeanMetric)() for _ in case.samples)
        self.seen = nn.ModuleList(classification.MulticlassAccuracy(CLASSES) for _ in case.samples)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        case = self.case
        x, y = (batch["inputs"]["x"], batch["y"]) if "inputs" in batch else _unpack(batch)
        logits = self.net(x)
        if case.depends_on_batch:
            logits = logits - logits.mean(dim=0) / 2
        self.seen[dataloader_idx](logits, y)
        metric = self.metrics[dataloader_idx]
        if case.monitor in METRICS:
            _update(metric, logits, y)
            self.log(case.monitor, metric)
            return
        losses = nn.functional.cross_entropy(logits, y, reduction="none")
        if case.monitor == "mean_metric":
            metric.update(losses.mean())
            self.log(case.monitor, metric)
            return
        value = {
            "loss": losses.mean(),
            "weighted_loss": losses.mean(),
            "root_per_batch": losses.mean().sqrt(),
            "exponential_per_batch": losses.mean().exp(),
            "signed": losses.mean() - 0.3,
            "accuracy": (logits.argmax(dim=1) == y).float().mean(),
        }[case.monitor]
        self.log(case.monitor, value, **({"batch_size": 3} if case.monitor == "weighted_loss" else {}))

    def val_dataloader(self) -> Any:
        loaders = [self._loader(Rows(self.case, index)) for index in range(len(self.case.samples))]
        return loaders if len(loaders) > 1 else loaders[0]

    def _loader(self, rows: Rows) -> DataLoader:
        case = self.case
        collate = {"dict": dictionary, "ragged": ragged}.get(case.layout, tensors)
        dataset = Stream(rows) if case.layout == "iterable" and torch.utils.data.get_worker_info() is None else rows
        return DataLoader(dataset, batch_size=case.batch_size, collate_fn=collate)


def ingredients(case: Case, directory: Path) -> list[Path]:
    """Checkpoints around the true weights, some far away, some equal."""
    generator = torch.Generator().manual_seed(case.seed)
    paths = []
    for number in range(case.ingredients):
        scale = case.spread * (10 if number % 5 == 4 else 1) * (0 if number % 7 == 6 else 1)
        weight = _true_weight() + scale * torch.randn(CLASSES, FEATURES, generator=generator)
        path = directory / f"{number}.ckpt"
        torch.save({"state_dict": {"net.weight": weight, "net.bias": torch.zeros(CLASSES)}}, path)
        paths.append(path)
    return paths


def cook(case: Case, directory: Path, output: str = "soup.ckpt", options: dict | None = None, **kwargs) -> Soup:
    """Cook a case; ``options`` are the trainer's."""
    paths = sorted(directory.glob("[0-9]*.ckpt"))
    cooking = trainer(SoupTrainer, **(options or {}))
    out = directory / output
    return cooking.cook(Linear(case), ingredients=paths, monitor=case.name, mode=case.mode, output=out, **kwargs)


def decisions(soup: Soup) -> list[tuple[list[str], bool | None]]:
    return [([member.name for member in row.mixture], row.accepted) for row in soup.trace if row.accepted is not None]


def _unpack(batch: Any) -> tuple[Tensor, Tensor]:
    if isinstance(batch, dict):
        return batch["x"].sum(dim=1) / batch["lengths"].unsqueeze(1), batch["y"]
    return batch[0], batch[1]


def _update(metric: Metric, logits: Tensor, y: Tensor) -> None:
    if isinstance(metric, torchmetrics.MeanSquaredError):
        metric.update(logits[:, 0], y.float())
    else:
        metric.update(logits, y)


def _true_weight() -> Tensor:
    return 2 * torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(0))
