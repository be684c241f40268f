"""Candidates are written in place where that is the same as loading them."""

import threading
import time
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import SingleDeviceStrategy, Strategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_soups import GreedySoup, Ingredients, Mixture, Recipe, Soup, SoupTrainer
from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.evaluation.staging import Staging
from lightning_soups.mixing import Mixer
from tests.helpers import Blobs, Classifier, blobs, record, trainer

LRS = [0.02, 0.3, 0.6, 1.2, 0.1]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tensors were loaded by each call of the strategy's method."""
    counted: list[int] = []
    original = Strategy.load_model_state_dict

    def counting(self, checkpoint, strict: bool = True) -> None:
        counted.append(len(checkpoint["state_dict"]))
        original(self, checkpoint, strict)

    monkeypatch.setattr(Strategy, "load_model_state_dict", counting)
    return counted


class Everything(Recipe):
    """Asks about mixtures that grow, shrink, jump and are not uniform; remembers the live weights of each."""

    def __init__(self) -> None:
        self.asked: list[Mixture] = []

    def cook(self, ingredients: Ingredients, evaluator: Evaluator) -> Mixture:
        a, b, c, d, e = ingredients
        for members in ([a, b], [a, b, c], [c, d], [a, b, c, d], [e], [e, d], [d, c, b, a, e], [a, e]):
            self.asked.append(Mixture.uniform(members))
        self.asked.insert(3, Mixture({a: 0.9, c: 0.1}))
        for mixture in self.asked:
            evaluator.score(mixture)
        return self.asked[0]


class Remembering(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("counter", torch.tensor(0))
        self.live: list[dict[str, Tensor]] = []

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["state_dict"]["counter"] += len(checkpoint["state_dict"]["net.0.weight"]) + int(1000 * self.lr)

    def on_validation_start(self) -> None:
        self.live.append({name: tensor.clone() for name, tensor in self.state_dict().items()})


def test_what_is_scored_is_bit_for_bit_what_is_saved(tmp_path: Path, loads: list[int]) -> None:
    record(tmp_path, LRS, lambda lr: _with_lr(Remembering(), lr))
    module, recipe = Remembering(), Everything()
    cooking = trainer(SoupTrainer)
    cooking.cook(module, datamodule=Blobs(), ingredients=tmp_path, recipe=recipe, early_rejection=False)
    assert len(module.live) == len(recipe.asked) == 9
    for mixture, live in zip(recipe.asked, module.live, strict=True):
        mixed = Mixer().mix(mixture)["state_dict"]
        assert all(torch.equal(tensor, mixed[name]) for name, tensor in live.items())
    assert len({int(live["counter"]) for live in module.live}) > 2
    assert len(loads) == 1, "the first mixture; all others are written in place"


def _with_lr(module: Classifier, lr: float) -> Classifier:
    module.lr = lr
    return module


class Hooked(Classifier):
    def on_load_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["state_dict"] = {name: 2 * tensor for name, tensor in checkpoint["state_dict"].items()}


class Prefixed(Classifier):
    """Loads its layers under other names than it has."""

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(self._double)

    def _double(self, module: nn.Module, state_dict: dict, *args: object) -> None:
        state_dict["net.0.weight"] = 2 * state_dict["net.0.weight"]


class Derived(Classifier):
    """Computes a buffer from its weights when it is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("norm", torch.zeros(1), persistent=False)

    def load_state_dict(self, state_dict: dict, *args, **kwargs):
        self.norm = state_dict["net.0.weight"].norm().reshape(1)
        return super().load_state_dict(state_dict, *args, **kwargs)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        assert torch.allclose(self.norm, self.net[0].weight.norm())
        super().validation_step(batch, batch_idx)


class Sharding(SingleDeviceStrategy):
    def load_model_state_dict(self, checkpoint, strict: bool = True) -> None:
        super().load_model_state_dict(checkpoint, strict)


class Deaf(SingleDeviceStrategy):
    def load_model_state_dict(self, checkpoint, strict: bool = True) -> None:
        """Does nothing, as that of DeepSpeedStrategy."""


def test_a_strategy_that_loads_nothing_is_refused(tmp_path: Path) -> None:
    record(tmp_path, LRS[:2])
    with pytest.raises(MisconfigurationException, match="Deaf does not load a mixture into the module"):
        trainer(SoupTrainer, strategy=Deaf("cpu")).cook(Classifier(), datamodule=Blobs(), ingredients=tmp_path)
    assert not list(tmp_path.glob("soups/*"))


@pytest.mark.parametrize("kind", ["hook", "pre-hook", "derived", "strategy"])
def test_what_loads_in_its_own_way_goes_on_doing_so(tmp_path: Path, loads: list[int], kind: str) -> None:
    record(tmp_path, LRS)
    module = {"hook": Hooked, "pre-hook": Prefixed, "derived": Derived, "strategy": Classifier}[kind]()
    options = {"strategy": Sharding("cpu")} if kind == "strategy" else {}
    soup = trainer(SoupTrainer, **options).cook(module, datamodule=Blobs(), ingredients=tmp_path)
    assert len(loads) >= sum(not row.cached for row in soup.trace) > 1


def test_weights_that_the_module_lacks_or_has_more_of(tmp_path: Path, loads: list[int]) -> None:
    record(tmp_path, LRS)

    class Larger(Classifier):
        strict_loading = False

        def __init__(self) -> None:
            super().__init__()
            self.extra = nn.Linear(2, 2)

    module = Larger()
    extra = module.extra.weight.detach().clone()
    soup = trainer(SoupTrainer).cook(module, datamodule=Blobs(), ingredients=tmp_path)
    plain = trainer(SoupTrainer).cook(Classifier(), datamodule=Blobs(), ingredients=tmp_path)
    assert soup.mixture == plain.mixture
    assert soup.score == plain.score
    assert torch.equal(module.extra.weight, extra)


def test_an_ingredient_is_read_ahead_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path, LRS)
    staged: list[str] = []
    original = Staging.stage

    def staging(self: Staging, ingredient) -> None:
        if self._next is None or self._next[0] != ingredient:
            staged.append(ingredient.name)
        original(self, ingredient)

    monkeypatch.setattr(Staging, "stage", staging)
    soup = trainer(SoupTrainer).cook(Classifier(), datamodule=Blobs(), ingredients=tmp_path)
    candidates = [row.mixture.members[-1].name for row in soup.trace if row.accepted is not None]
    assert staged == candidates, "best first, each while the one before it is evaluated"


def test_a_failure_ahead_is_raised_when_the_ingredient_is_needed(tmp_path: Path) -> None:
    record(tmp_path, [0.1, 0.3])
    first, second = Ingredients.load(tmp_path)
    second.path.write_bytes(b"broken")
    with Staging(Mixer(), pin=False) as staging:
        staging.stage(second)
        assert staging.tensors(first)["net.0.weight"].shape == (8, 6)
        with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
            staging.tensors(second)
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        trainer(SoupTrainer).cook(Classifier(), datamodule=Blobs(), ingredients=tmp_path, recipe=GreedySoup())


def test_recorded_scores_rank_only_when_evaluation_agrees(tmp_path: Path) -> None:
    record(tmp_path, LRS)

    def singles(soup: Soup) -> list[tuple[bool, float]]:
        return [(row.cached, row.score.value) for row in soup.trace if len(row.mixture) == 1][: len(LRS)]

    def cook(**kwargs) -> Soup:
        return trainer(SoupTrainer).cook(Classifier(), **{"datamodule": Blobs(), "ingredients": tmp_path, **kwargs})

    recorded = cook()
    assert [cached for cached, _ in singles(recorded)] == [False, True, True, True, True]
    other_data = cook(datamodule=Blobs(held_out=90))
    assert not any(cached for cached, _ in singles(other_data)[1:2])
    assert sum(not row.cached for row in other_data.trace if len(row.mixture) == 1) == len(LRS)
    for options in ({"monitor": "val_loss", "mode": "min"}, {"mode": "min"}):
        assert sum(not row.cached for row in cook(**options).trace if len(row.mixture) == 1) == len(LRS)
    without = [ingredient.path for ingredient in Ingredients.load(tmp_path)]
    without[0].with_suffix(".json").unlink()
    evaluated = cook(ingredients=without, monitor="val_acc")
    assert sum(not row.cached for row in evaluated.trace if len(row.mixture) == 1) == len(LRS)
    assert evaluated.mixture == recorded.mixture
    assert {value for _, value in singles(evaluated)} == {value for _, value in singles(recorded)}


def test_no_loader_starts_workers_while_an_ingredient_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is forked while another thread holds a lock may hang."""
    record(tmp_path, LRS)
    running: list[bool] = []
    reading = threading.Event()
    original = Staging._read

    def slowly(self: Staging, ingredient):
        reading.set()
        time.sleep(0.05)
        found = original(self, ingredient)
        reading.clear()
        return found

    class Forking(DataLoader):
        def __iter__(self):
            running.append(reading.is_set())
            return super().__iter__()

    monkeypatch.setattr(Staging, "_read", slowly)
    loader = Forking(blobs(101, seed=2), batch_size=32)
    trainer(SoupTrainer).cook(Classifier(), loader, ingredients=tmp_path, cache_batches="off")
    assert len(running) > 3
    assert not any(running)
