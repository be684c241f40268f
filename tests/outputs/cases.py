"""Soups of a few small tensors of every kind, made without training."""

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lightning_soups import Ingredient, Mixture, Soup
from lightning_soups.score import Score
from lightning_soups.trace import Question


def soup_of(directory: Path, states: list[dict[str, Any]], hyperparameters: dict[str, Any] | None = None) -> Soup:
    """A uniform soup of state dicts, which are written as Lightning checkpoints first."""
    directory.mkdir(parents=True, exist_ok=True)
    ingredients = []
    for number, state in enumerate(states):
        path = directory / f"{number}.ckpt"
        rest = {"epoch": 3, "global_step": 40, "pytorch-lightning_version": pl.__version__, "callbacks": {"a": 1}}
        torch.save({"state_dict": state, "hyper_parameters": hyperparameters or {}, **rest}, path)
        known = {"monitor": "val_acc", "mode": "max", "metrics": {"val_acc": 0.5 + number / 10, "val_loss": math.nan}}
        ingredients.append(Ingredient(path, f"run-{number}", hyperparameters={"lr": 0.1 * number}, **known))
    singles = [(Mixture.uniform([one]), 0.5 + number / 10) for number, one in enumerate(ingredients)]
    asked = [*singles, (Mixture.uniform(ingredients), 0.9), (Mixture.uniform(ingredients[:1]), -math.inf)]
    return Soup(
        Mixture.uniform(ingredients),
        Score(0.9, "max"),
        monitor="val_acc",
        metrics={"val_acc": 0.9, "val_loss": math.nan},
        trace=[Question(mixture, Score(score, "max"), None, 1, 10, 0.5, False) for mixture, score in asked],
        recipe="GreedySoup",
        options={"strict": False, "alphas": [0.1, 0.2]},
        candidates=ingredients,
        caveats=["the last batch was left out"],
    )


class Odd(nn.Module):
    """Tied and half-precision weights, counters, flags, and a buffer with nothing in it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 4)
        self.decoder = nn.Linear(4, 4)
        self.decoder.weight = self.encoder.weight
        self.low = nn.Parameter(torch.randn(3, dtype=torch.bfloat16))
        self.register_buffer("steps", torch.tensor(7))
        self.register_buffer("flag", torch.tensor([True, False]))
        self.register_buffer("nothing", torch.zeros(0))
        self.register_buffer("more_nothing", torch.zeros(0))


def odd_states(count: int = 3) -> list[dict[str, Tensor]]:
    states = []
    for seed in range(count):
        torch.manual_seed(seed)
        states.append(Odd().state_dict())
    return states


def assert_same_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(found[name], tensor), name
