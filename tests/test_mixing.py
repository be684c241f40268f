"""Mixtures of any kind against float64 sums of whole tensors, as checkpoints and in the live module."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_soups import Ingredients, Mixture, Recipe, SoupTrainer
from lightning_soups.mixing import Mixer
from lightning_soups.weights import average, read_checkpoint
from lightning_soups.weights.averaging import write_average
from tests.helpers import FEATURES, Blobs, Classifier, record, trainer


class Counting(Classifier):
    """With BatchNorm: its counter is no number to average."""

    def __init__(self, lr: float = 0.05) -> None:
        super().__init__(lr)
        self.net = nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Ingredients:
    directory = tmp_path_factory.mktemp("soups")
    record(directory, [0.02, 0.1, 0.5], make=Counting)
    return Ingredients.load(directory)


def mixtures(found: Ingredients) -> list[Mixture]:
    a, b, c = found
    theta0 = found.initialization
    by_layer = Mixture({a: 0.5, c: 0.5}, {"net.0": {a: 0.1, c: 0.9}, "net.1.weight": {a: -1.0, c: 2.0}})
    path = Mixture.uniform([theta0]).interpolate(Mixture.uniform([a, b, c]), 0.3)
    return [Mixture({a: 0.3, b: -0.2, c: 0.9}), by_layer, path, Mixture({b: 0.5}), Mixture.uniform([theta0])]


@pytest.mark.parametrize("index", range(5))
def test_a_mixture_is_the_sum_that_its_coefficients_say(found: Ingredients, index: int) -> None:
    mixture = mixtures(found)[index]
    members = {member: read_checkpoint(member.path)["state_dict"] for member in mixture}
    checkpoint = Mixer().mix(mixture)
    for name, tensor in checkpoint["state_dict"].items():
        own = mixture.coefficients_of(name)
        if tensor.is_floating_point():
            exact = sum(own[member] * values[name].double() for member, values in members.items())
            assert torch.equal(tensor, exact.float())
        else:
            largest = max(sorted(mixture, key=lambda member: member.path), key=own.__getitem__)
            assert torch.equal(tensor, members[largest][name])
    assert checkpoint["hyper_parameters"]["lr"] == 0.02 or index > 2


def test_the_live_module_holds_what_a_checkpoint_would(found: Ingredients, tmp_path: Path) -> None:
    """The first mixture is loaded as Lightning does, later ones are written in place."""
    seen: list[tuple[Mixture, dict]] = []

    class Watching(Counting):
        def on_validation_epoch_start(self) -> None:
            seen.append((asked[-1], {name: tensor.clone() for name, tensor in self.state_dict().items()}))

    asked: list[Mixture] = []

    class Asking(Recipe):
        def cook(self, ingredients, evaluator):
            for mixture in [Mixture.uniform(ingredients), *mixtures(ingredients), Mixture.uniform(ingredients[:2])]:
                asked.append(mixture)
                evaluator.score(mixture)
            return mixture

    arguments = {"datamodule": Blobs(), "ingredients": found, "recipe": Asking(), "output": tmp_path / "s.ckpt"}
    soup = trainer(SoupTrainer).cook(Watching(), **arguments)
    assert {mixture for mixture, _ in seen} == set(asked)
    for mixture, live in seen:
        for name, tensor in Mixer().mix(mixture)["state_dict"].items():
            assert torch.equal(live[name], tensor), (mixture, name)
    assert soup.mixture == asked[-1]


def test_averages_by_name() -> None:
    first, second = (
        {"a": torch.tensor([1.0]), "b": torch.tensor([value]), "n": torch.tensor(int(value))} for value in (2.0, 4.0)
    )
    mixed = average([first, second], [0.5, 0.5], {"b": [2.0, -1.0], "n": [0.1, 0.9]})
    assert [mixed[name].item() for name in "abn"] == [1.0, 0.0, 4]
    out = {name: torch.zeros_like(tensor) for name, tensor in first.items()}
    write_average(out, [first, second], [0.5, 0.5], {"b": [2.0, -1.0], "n": [0.1, 0.9]})
    assert [out[name].item() for name in "abn"] == [1.0, 0.0, 4]
    with pytest.raises(ValueError, match="got 2 checkpoints and 1 coefficients"):
        average([first, second], [0.5, 0.5], {"b": [1.0]})
    with pytest.raises(ValueError, match="must be finite"):
        average([first, second], [0.5, 0.5], {"b": [1.0, float("nan")]})
