"""Modules with shifted test data, and what a plain PyTorch loop finds on them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from lightning_soups import Ingredients, Study, StudyResult
from lightning_soups.trainer import SoupTrainer
from tests.helpers import CLASSES, Blobs, Classifier, blobs, mean, trainer

StateDict = Mapping[str, Tensor]
NAMES = ("plain", "noisy", "noisier")
HELD_OUT = "held-out"


def dataset(name: str) -> TensorDataset:
    """The held-out data, or a test dataset; in distribution is the one called plain."""
    samples, seed, noise = {HELD_OUT: (101, 2, 1.6), "plain": (50, 3, 1.6), "noisy": (60, 4, 2.4)}.get(
        name, (45, 5, 3.2)
    )
    return blobs(samples, seed=seed, noise=noise)


class Shifted(Blobs):
    """Three test datasets."""

    def test_dataloader(self) -> list[DataLoader]:
        return [DataLoader(dataset(name), batch_size=16) for name in NAMES]


class ManyTests(Classifier):
    """Logs a torchmetrics accuracy for each test dataset."""

    def __init__(self, lr: float = 0.05, hidden: int = 8) -> None:
        super().__init__(lr, hidden)
        self.accuracies = nn.ModuleList(MulticlassAccuracy(CLASSES, average="micro") for _ in NAMES)

    def test_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        metric = self.accuracies[dataloader_idx]
        metric(self(batch[0]), batch[1])
        self.log(f"test_acc/{NAMES[dataloader_idx]}", metric, add_dataloader_idx=False)


class PlainNumbers(Classifier):
    """Logs plain numbers: what is right, and the loss."""

    def test_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        logits, name = self(batch[0]), NAMES[dataloader_idx]
        right = (logits.argmax(dim=1) == batch[1]).float().mean()
        loss = nn.functional.cross_entropy(logits, batch[1])
        self.log_dict({f"test_acc/{name}": right, f"test_loss/{name}": loss}, add_dataloader_idx=False)


def weights(ingredients: Sequence) -> list[StateDict]:
    return [torch.load(one.path, weights_only=True)["state_dict"] for one in ingredients]


def initialization(directory: Path) -> StateDict:
    return torch.load(Ingredients.load(directory).initialization.path, weights_only=True)["state_dict"]


def logits(state_dict: StateDict, name: str, make: Callable[[], nn.Module] = Classifier) -> Tensor:
    module = make().eval()
    module.load_state_dict(state_dict)
    with torch.no_grad():
        return module(dataset(name).tensors[0])


def right(outputs: Tensor, name: str) -> Tensor:
    """Zeros and ones, float64."""
    return (outputs.argmax(dim=1) == dataset(name).tensors[1]).double()


def losses(outputs: Tensor, name: str) -> Tensor:
    return nn.functional.cross_entropy(outputs.double(), dataset(name).tensors[1], reduction="none")


def accuracy(state_dict: StateDict, name: str) -> float:
    return float(right(logits(state_dict, name), name).mean())


def averaged(state_dicts: Sequence[StateDict], name: str) -> Tensor:
    """The logits of an ensemble."""
    return torch.stack([logits(one, name).double() for one in state_dicts]).mean(dim=0).float()


def greedy(state_dicts: Sequence[StateDict]) -> list[int]:
    """The published recipe; ties keep their order."""
    scores = [accuracy(one, HELD_OUT) for one in state_dicts]
    first, *others = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    members, best = [first], scores[first]
    for other in others:
        score = accuracy(mean([state_dicts[i] for i in (*members, other)]), HELD_OUT)
        if score >= best:
            members, best = [*members, other], score
    return members


def study(what: Study, source: object, output: Path, module: nn.Module | None = None, **kwargs) -> StudyResult:
    arguments = {"datamodule": Shifted(), "ingredients": source, "output": output / "study", **kwargs}
    return trainer(SoupTrainer, **arguments.pop("trainer", {})).study(module or ManyTests(), study=what, **arguments)
