"""Held-out data that are legal, and far from ordinary."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lightning_soups import GreedySoup, LearnedSoup, Soup, SoupTrainer
from tests.helpers import FEATURES, Classifier, blobs, record, trainer

HELD_OUT = 40


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("soups")
    record(directory, [0.1, 0.5, 1.0])
    return directory


def cook(directory: Path, loaders: Any, module: Classifier | None = None, recipe: Any = None, **arguments: Any) -> Soup:
    limit = {"limit_val_batches": arguments.pop("limit", 1.0)}
    defaults = {"ingredients": directory, "recipe": recipe or GreedySoup(), "output": directory / "s.ckpt"}
    return trainer(SoupTrainer, **limit).cook(module or Classifier(), loaders, **{**defaults, **arguments})


class Stream(IterableDataset[Any]):
    """Without a length."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[Any]:
        return iter([blobs(HELD_OUT, seed=2)[index] for index in range(self.samples)])


class Breaking(Dataset[Any]):
    """Fails in the third batch."""

    def __len__(self) -> int:
        return HELD_OUT

    def __getitem__(self, index: int) -> Any:
        if index == 20:
            raise RuntimeError("the disk failed")
        return blobs(HELD_OUT, seed=2)[index]


def empty() -> DataLoader:
    return DataLoader(TensorDataset(torch.zeros(0, FEATURES), torch.zeros(0, dtype=torch.long)))


def some(samples: int = HELD_OUT, **options: Any) -> DataLoader:
    return DataLoader(blobs(samples, seed=2), **{"batch_size": 8, **options})


NO_DATA = "There is no held-out data to score with"
CASES: dict[str, tuple[Callable[[], Any], dict[str, Any], str | int]] = {
    "no samples": (empty, {}, NO_DATA),
    "no dataloaders": (list, {}, NO_DATA),
    "all dropped": (lambda: some(5, drop_last=True), {}, NO_DATA),
    "no batches": (some, {"limit": 0}, NO_DATA),
    "less than a batch": (some, {"limit": 0.1}, "Please increase the `limit_val_batches`"),
    "one batch": (some, {"limit": 1}, 8),
    "one sample": (lambda: some(1), {}, 1),
    "batches of one": (lambda: some(3, batch_size=1), {}, 3),
    "less than a whole batch": (lambda: some(5, batch_size=64), {}, 5),
    "a stream": (lambda: DataLoader(Stream(HELD_OUT), batch_size=8), {}, HELD_OUT),
    "an empty stream": (lambda: DataLoader(Stream(0), batch_size=8), {}, "have samples"),
    "it raises": (lambda: DataLoader(Breaking(), batch_size=8), {}, "the disk failed"),
}


@pytest.mark.parametrize("case", CASES)
def test_dataloaders(recorded: Path, case: str) -> None:
    make, options, expected = CASES[case]
    module = Classifier()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    if isinstance(expected, int):
        soup = cook(recorded, make(), module, early_rejection=False, **options)
        assert soup.trace[0].samples == expected
    else:
        with pytest.raises((MisconfigurationException, RuntimeError), match=expected):
            cook(recorded, make(), module, **options)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_learning_needs_more_than_one_sample(recorded: Path) -> None:
    with pytest.raises(MisconfigurationException, match="too little held-out data"):
        cook(recorded, some(1), recipe=LearnedSoup(steps=1))


class OfSeveral(Classifier):
    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)


@pytest.mark.parametrize("filled", [0, 1])
def test_one_of_several_dataloaders_is_empty(recorded: Path, filled: int) -> None:
    loaders = [empty(), empty()]
    loaders[filled] = some()
    monitor = f"val_acc/dataloader_idx_{filled}"
    soup = cook(recorded, loaders, OfSeveral(), monitor=monitor, mode="max", early_rejection=False)
    assert soup.trace[0].samples == HELD_OUT
    with pytest.raises(MisconfigurationException, match=rf"were: \['val_acc/dataloader_idx_{filled}'"):
        cook(recorded, loaders, OfSeveral())


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@dataclass
class Record:
    x: Tensor
    y: Tensor


SHAPES: dict[str, tuple[Callable[[Tensor, Tensor], Any], Callable[[Any], tuple[Tensor, Tensor]]]] = {
    "a dictionary": (lambda x, y: {"x": x, "y": y}, lambda batch: (batch["x"], batch["y"])),
    "a named tuple": (Pair, lambda batch: (batch.x, batch.y)),
    "a dataclass": (Record, lambda batch: (batch.x, batch.y)),
    "with strings": (
        lambda x, y: {"text": ["a"] * len(x), "x": x, "y": y},
        lambda batch: (batch["x"], batch["y"]),
    ),
    "strings only": (
        lambda x, y: [f"{' '.join(map(repr, row.tolist()))} {label}" for row, label in zip(x, y.tolist(), strict=True)],
        lambda batch: (
            torch.tensor([[float(part) for part in line.split()[:-1]] for line in batch]),
            torch.tensor([int(line.split()[-1]) for line in batch]),
        ),
    ),
    "nested": (lambda x, y: [{"q": [x]}, (y, None)], lambda batch: (batch[0]["q"][0], batch[1][0])),
}


class Unpacking(Classifier):
    def __init__(self, shape: str) -> None:
        super().__init__()
        self.unpack = SHAPES[shape][1]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = self.unpack(batch)
        logits = self(x)
        self.val_acc(logits, y)
        self.log("val_acc", self.val_acc, batch_size=len(y))
        self.log("val_loss", nn.functional.cross_entropy(logits, y), batch_size=len(y))


@pytest.mark.parametrize("recipe", [GreedySoup(), LearnedSoup(steps=1)], ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("shape", SHAPES)
def test_batches_of_any_shape_score_alike(recorded: Path, shape: str, recipe: Any) -> None:
    make = SHAPES[shape][0]

    def collate(samples: list[tuple[Tensor, Tensor]]) -> Any:
        inputs, labels = zip(*samples, strict=True)
        return make(torch.stack(inputs), torch.stack(labels))

    soup = cook(recorded, some(collate_fn=collate), Unpacking(shape), recipe)
    plain = cook(recorded, some(), Classifier(), recipe)
    assert soup.score.value == pytest.approx(plain.score.value, abs=1e-6)
    if recipe.name == "GreedySoup":
        assert soup.mixture == plain.mixture
