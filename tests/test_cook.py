"""Cooking on one process, against a plain PyTorch loop."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_soups import GreedySoup, Ingredient, Ingredients, Mixture, Recipe, Soup, SoupTrainer, UniformSoup
from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.score import Score
from tests.helpers import (
    CLASSES,
    FEATURES,
    Blobs,
    Classifier,
    assert_same_scores,
    blobs,
    mean,
    record,
    reference_greedy,
    trainer,
)

LRS = [0.02, 0.1, 0.3, 0.6, 1.2, 0.2]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("soups")
    record(directory, LRS)
    return directory


def cook(directory: Path, module: LightningModule | None = None, **kwargs) -> Soup:
    return trainer(SoupTrainer).cook(
        module or Classifier(), datamodule=kwargs.pop("datamodule", Blobs()), ingredients=directory, **kwargs
    )


def weights(directory: Path) -> list[dict[str, Tensor]]:
    return [torch.load(i.path, weights_only=True)["state_dict"] for i in Ingredients.load(directory)]


def measure(make: Callable[[], nn.Module], metric: Callable[[Tensor, Tensor], float]) -> Callable[[dict], float]:
    """A plain evaluation of a state dict on the held-out blobs, in one batch."""
    inputs, labels = blobs(101, seed=2).tensors

    def evaluate(state_dict: dict[str, Tensor]) -> float:
        module = make().eval()
        module.load_state_dict(state_dict)
        with torch.no_grad():
            return metric(module(inputs), labels)

    return evaluate


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(dim=1) == labels).double().mean().item()


def loss(logits: Tensor, labels: Tensor) -> float:
    return nn.functional.cross_entropy(logits.double(), labels).item()


@pytest.mark.parametrize(
    ("monitor", "mode", "metric"), [("val_acc", None, accuracy), ("val_loss", "min", loss), ("val_loss", "max", loss)]
)
@pytest.mark.parametrize("early_rejection", [True, False])
def test_greedy_decides_as_the_published_recipe(recorded, tmp_path, monitor, mode, metric, early_rejection) -> None:
    soup = cook(recorded, monitor=monitor, mode=mode, output=tmp_path / "soup.ckpt", early_rejection=early_rejection)
    ingredients = list(Ingredients.load(recorded))
    members, scores = reference_greedy(weights(recorded), measure(Classifier, metric), mode or "max")
    assert [ingredients.index(member) for member in soup.ingredients] == members
    assert_same_scores(soup, ingredients, scores)
    expected = mean([weights(recorded)[i] for i in members])
    for name, tensor in soup.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1.2e-7, atol=1e-45)
    assert soup.score >= max(row.score for row in soup.trace if len(row.mixture) == 1)


def test_uniform_soup_is_the_mean_of_all(recorded: Path, tmp_path: Path) -> None:
    soup = cook(recorded, recipe=UniformSoup(), output=tmp_path / "u.ckpt")
    expected = mean(weights(recorded))
    for name, tensor in soup.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1.2e-7, atol=1e-45)
    assert soup.score.value == pytest.approx(measure(Classifier, accuracy)(expected), abs=1e-6)
    assert [len(row.mixture) for row in soup.trace] == [len(LRS)]


def test_the_saved_soup_is_an_ordinary_checkpoint(recorded: Path) -> None:
    soup = cook(recorded)
    assert soup.path == recorded / "soups" / "greedy.ckpt"
    loaded = Classifier.load_from_checkpoint(soup.path)
    (validated,) = trainer().validate(loaded, datamodule=Blobs(), verbose=False)
    assert validated["val_acc"] == pytest.approx(soup.score.value, abs=1e-7)
    assert validated["val_loss"] == pytest.approx(soup.metrics["val_loss"], abs=1e-6)
    (tested,) = trainer().test(Classifier(), datamodule=Blobs(), ckpt_path=str(soup.path), verbose=False)
    (reference,) = trainer().test(loaded, datamodule=Blobs(), verbose=False)
    assert tested == reference


def test_a_soup_can_be_loaded_and_saved_again(recorded: Path, tmp_path: Path) -> None:
    soup = cook(recorded, output=tmp_path / "soup.ckpt")
    again = Soup.load(tmp_path / "soup.ckpt")
    assert again.mixture == soup.mixture
    assert (again.score, again.metrics, again.trace) == (soup.score, soup.metrics, soup.trace)
    assert again.candidates == soup.candidates
    assert again.ingredients[0].metrics == soup.ingredients[0].metrics
    again.save(tmp_path / "copy.ckpt")
    assert again.path == tmp_path / "copy.ckpt"
    assert all(torch.equal(a, b) for a, b in zip(soup.state_dict().values(), again.state_dict().values(), strict=True))
    with pytest.raises(ValueError, match="not a soup"):
        Soup.load(soup.ingredients[0].path)


def test_the_same_mixture_gives_the_same_bits_in_whatever_order(tmp_path: Path) -> None:
    for name, value in zip("abc", (1e16, 1.0, -1e16), strict=True):  # float64 sums of these depend on their order
        torch.save({"state_dict": {"w": torch.tensor([value], dtype=torch.float64)}}, tmp_path / f"{name}.ckpt")
    ingredients = list(Ingredients.load(str(tmp_path / "*.ckpt")))
    common = {"monitor": "m", "metrics": {}, "trace": [], "recipe": "r", "candidates": ingredients}
    orders = [ingredients, ingredients[::-1], [ingredients[0], ingredients[2], ingredients[1]]]
    soups = [Soup(Mixture.uniform(order), Score(0.0, "max"), **common).state_dict()["w"].item() for order in orders]
    assert len(set(soups)) == 1


def test_one_ingredient(recorded: Path, tmp_path: Path) -> None:
    only = Ingredients.load(recorded)[2:3]
    soup = trainer(SoupTrainer).cook(Classifier(), datamodule=Blobs(), ingredients=only, output=tmp_path / "s.ckpt")
    assert soup.ingredients == tuple(only)
    original = torch.load(only[0].path, weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, original[name]) for name, tensor in soup.state_dict().items())


def test_ties_are_accepted_and_keep_the_order(recorded: Path, tmp_path: Path) -> None:
    """All but copies of one checkpoint: every score is the same, so all are kept, in the order of their paths."""
    source = Ingredients.load(recorded)[3].path
    for name, more in (("b", 1e-6), ("c", 0.0), ("a", 2e-6)):
        checkpoint = torch.load(source, weights_only=True)
        checkpoint["state_dict"]["net.2.bias"] += more
        torch.save(checkpoint, tmp_path / f"{name}.ckpt")
    soup = trainer(SoupTrainer).cook(
        Classifier(), datamodule=Blobs(), ingredients=str(tmp_path / "*.ckpt"), monitor="val_acc"
    )
    assert [member.path.name for member in soup.ingredients] == ["a.ckpt", "b.ckpt", "c.ckpt"]
    assert [row.accepted for row in soup.trace[-2:]] == [True, True]
    original = torch.load(source, weights_only=True)["state_dict"]
    torch.testing.assert_close(soup.state_dict(), original, rtol=0, atol=3e-6)


def test_the_trace_says_what_each_question_cost(recorded: Path, tmp_path: Path) -> None:
    soup = cook(recorded, output=tmp_path / "s.ckpt", early_rejection=False)
    assert [row.samples for row in soup.trace] == [101] + [0] * 6 + [101] * 5
    assert [row.batches for row in soup.trace] == [4] + [0] * 6 + [4] * 5
    assert [row.cached for row in soup.trace] == [False] + [True] * 6 + [False] * 5
    assert [row.accepted for row in soup.trace[:7]] == [None] * 7
    assert {row.accepted for row in soup.trace[7:]} <= {True, False}


class Ascending(Recipe):
    """A stranger's recipe: asks the same twice, mixes unevenly."""

    tests_each = True  # ingredients of every initialization are welcome

    def __init__(self, share: float = 0.25) -> None:
        self.share = share

    def cook(self, ingredients: Ingredients, evaluator: Evaluator) -> Mixture:
        mixture = Mixture({ingredients[0]: self.share, ingredients[1]: 1 - self.share})
        assert evaluator.score(mixture) == evaluator.score(mixture)
        return mixture


def test_a_users_own_recipe(recorded: Path, tmp_path: Path) -> None:
    soup = cook(recorded, recipe=Ascending(0.75), output=tmp_path / "s.ckpt")
    a, b = weights(recorded)[:2]
    for name, tensor in soup.state_dict().items():
        torch.testing.assert_close(tensor, (0.75 * a[name].double() + 0.25 * b[name].double()).float())
    assert [row.cached for row in soup.trace] == [False, True]
    assert soup.recipe == "Ascending"


def test_recipe_decides_the_default_file_name(recorded: Path) -> None:
    assert cook(recorded, recipe=Ascending()).path == recorded / "soups" / "ascending.ckpt"


class Broken(Classifier):
    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        if batch_idx == 2:
            raise RuntimeError("user's bug")


@pytest.mark.parametrize("fails", [False, True])
def test_module_and_trainer_come_back_as_they_went(recorded: Path, tmp_path: Path, fails: bool) -> None:
    module = (Broken if fails else Classifier)()
    module.register_buffer("own", torch.arange(3.0), persistent=False)
    module.net[0].eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    parameters = list(module.parameters())
    cooking = trainer(SoupTrainer)
    loop = cooking.validate_loop
    if fails:
        with pytest.raises(RuntimeError, match="user's bug"):
            cooking.cook(module, datamodule=Blobs(), ingredients=recorded)
    else:
        cooking.cook(module, datamodule=Blobs(), ingredients=recorded, output=tmp_path / "s.ckpt")
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(a is b for a, b in zip(parameters, module.parameters(), strict=True))
    assert module.own.tolist() == [0, 1, 2]
    assert module.training
    assert not module.net[0].training
    assert module.net[2].training
    assert cooking.validate_loop is loop
    (result,) = cooking.validate(Classifier(), datamodule=Blobs(), verbose=False)  # the trainer goes on working
    assert set(result) == {"val_acc", "val_loss"}


class Stateful(Classifier):
    """Changes buffers while it validates: one in place, one by assigning a new tensor, one that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("written", torch.zeros(2))
        self.register_buffer("replaced", torch.zeros(2))
        self.register_buffer("unsaved", torch.zeros(2), persistent=False)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.log("unsaved", self.unsaved[0])
        self.written += 1
        self.unsaved += 1
        self.replaced = self.replaced + 1


def test_buffers_that_validation_changes_are_restored(tmp_path: Path) -> None:
    record(tmp_path, [0.1, 0.3], lambda lr: Stateful())
    module = Stateful()
    module.unsaved.fill_(5)
    soup = cook(tmp_path, module)
    mean_of_one_pass = (32 * 5 + 32 * 6 + 32 * 7 + 5 * 8) / 101  # no question sees what an earlier one left behind
    assert soup.metrics["unsaved"] == pytest.approx(mean_of_one_pass)
    assert sum(not row.cached for row in soup.trace) == 3
    for buffer, value in [(module.written, 0), (module.replaced, 0), (module.unsaved, 5)]:
        assert buffer.tolist() == [value, value]
        buffer.add_(1)  # and they can be written to: they are not inference tensors
    assert "unsaved" not in module.state_dict()


def test_a_failed_cook_leaves_no_file(recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="user's bug"):
        cook(recorded, Broken(), output=tmp_path / "out" / "s.ckpt")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_a_precision_that_converts_the_module_is_undone(recorded: Path, tmp_path: Path, precision: str) -> None:
    module = Classifier()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    soup = trainer(SoupTrainer, precision=precision).cook(
        module, datamodule=Blobs(), ingredients=recorded, output=tmp_path / "s.ckpt"
    )
    assert module.dtype == torch.float32
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert {tensor.dtype for tensor in soup.state_dict().values()} == {torch.float32}


class Normed(LightningModule):
    """BatchNorm, tied weights, and integer, bool and half-precision buffers."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.norm = nn.BatchNorm1d(FEATURES)
        self.encoder = nn.Linear(FEATURES, FEATURES)
        self.decoder = nn.Linear(FEATURES, FEATURES)
        self.decoder.weight = self.encoder.weight
        self.head = nn.Linear(FEATURES, CLASSES)
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("flag", torch.tensor(True))
        self.register_buffer("scale", torch.tensor([1.0], dtype=torch.float16))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.decoder(torch.tanh(self.encoder(self.norm(x))))) * self.scale.float()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.steps += 1
        self.scale += self.lr / 100
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def test_batch_norm_tied_weights_and_odd_buffers(tmp_path: Path) -> None:
    record(tmp_path, [0.1, 0.3, 0.2], Normed, monitor="val_loss", mode="min")
    states = weights(tmp_path)
    soup = cook(tmp_path, Normed(), batch_norm="average")
    members, scores = reference_greedy(states, measure(Normed, loss), "min")
    ingredients = list(Ingredients.load(tmp_path))
    assert [ingredients.index(member) for member in soup.ingredients] == members
    assert_same_scores(soup, ingredients, scores)

    uniform = cook(tmp_path, Normed(), recipe=UniformSoup(), batch_norm="average").state_dict()
    expected = mean(states)
    for name in ("norm.running_mean", "norm.running_var", "encoder.weight", "scale"):
        torch.testing.assert_close(uniform[name], expected[name])
    assert uniform["scale"].dtype == torch.float16
    assert uniform["norm.num_batches_tracked"].item() == states[0]["norm.num_batches_tracked"].item()
    assert uniform["steps"].item() in {state["steps"].item() for state in states}
    assert uniform["flag"].item() is True
    assert uniform["encoder.weight"].data_ptr() == uniform["decoder.weight"].data_ptr()
    loaded = Normed.load_from_checkpoint(tmp_path / "soups" / "uniform.ckpt")
    assert loaded.encoder.weight is loaded.decoder.weight


class TwoLoaders(Classifier):
    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        correct = (self(batch[0]).argmax(dim=1) == batch[1]).float().mean()
        self.log("acc", correct)
        self.log(f"named_{dataloader_idx}", correct, add_dataloader_idx=False)


class Foreign(Recipe):
    """Mixes what it was not given, or returns nothing."""

    def __init__(self, other: Ingredient | None = None) -> None:
        self.other = other

    def cook(self, ingredients: Ingredients, evaluator: Evaluator) -> Mixture:
        return Mixture.uniform([self.other]) if self.other else None


def test_a_recipe_that_goes_wrong_is_told_so(recorded: Path) -> None:
    everything = Ingredients.load(recorded)
    with pytest.raises(MisconfigurationException, match=r"not given: \['run-05/"):
        trainer(SoupTrainer).cook(
            Classifier(), datamodule=Blobs(), ingredients=everything[:2], recipe=Foreign(everything[5])
        )
    with pytest.raises(MisconfigurationException, match="return a Mixture, got None"):
        cook(recorded, recipe=Foreign())


def test_an_impossible_output_is_refused_before_the_first_question(recorded: Path, tmp_path: Path) -> None:
    never = Broken()  # would raise in its validation_step
    with pytest.raises(ValueError, match="an existing folder that is not a soup's"):
        cook(recorded, never, output=tmp_path)
    with pytest.raises(ValueError, match=r"`output=nowhere://soup\.ckpt` cannot be reached"):
        cook(recorded, never, output="nowhere://soup.ckpt")
    with pytest.raises(ValueError, match=r"suffix '\.onnx' .* is none of a format"):
        cook(recorded, never, output=tmp_path / "soup.onnx")


def test_a_soup_that_scores_nan_is_not_saved(recorded: Path, tmp_path: Path) -> None:
    class Nothing(Classifier):
        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self.log("val_loss", torch.tensor(math.nan))

    with pytest.raises(MisconfigurationException, match="scores NaN by 'val_loss'"):
        cook(recorded, Nothing(), monitor="val_loss", mode="min", output=tmp_path / "s.ckpt")
    assert not (tmp_path / "s.ckpt").exists()


def test_metrics_come_back_and_do_not_leak_into_questions(recorded: Path, tmp_path: Path) -> None:
    module = Classifier()
    module.val_acc.update(torch.eye(3), torch.tensor([0, 1, 0]))
    clean = cook(recorded, Classifier(), output=tmp_path / "a.ckpt")
    soup = cook(recorded, module, output=tmp_path / "b.ckpt")
    assert [row.score for row in soup.trace] == [row.score for row in clean.trace]
    assert module.val_acc.compute().item() == pytest.approx(2 / 3)
    broken = Broken()
    with pytest.raises(RuntimeError, match="user's bug"):
        cook(recorded, broken)
    assert not broken.val_acc.update_called


def test_on_load_checkpoint_may_take_things_out_of_the_checkpoint(tmp_path: Path) -> None:
    class Takes(Classifier):
        def on_save_checkpoint(self, checkpoint: dict) -> None:
            checkpoint["mine"] = {"vocabulary": ["a", "b"]}

        def on_load_checkpoint(self, checkpoint: dict) -> None:
            self.vocabulary = checkpoint["mine"].pop("vocabulary")

    record(tmp_path, [0.1, 0.3], lambda lr: Takes(lr))
    soup = cook(tmp_path, Takes())
    assert torch.load(soup.path, weights_only=True)["mine"] == {"vocabulary": ["a", "b"]}


def test_lazy_modules_and_extra_state(tmp_path: Path) -> None:
    class Lazy(Classifier):
        def __init__(self, lr: float = 0.1) -> None:
            super().__init__(lr)
            self.net[0] = nn.LazyLinear(8)

        def get_extra_state(self) -> dict:
            return {"version": 3}

        def set_extra_state(self, state: dict) -> None:
            assert state == {"version": 3}

    record(tmp_path, [0.1, 0.3], Lazy)
    soup = cook(tmp_path, Lazy())
    members, _ = reference_greedy(
        [{k: v for k, v in w.items() if k != "_extra_state"} for w in weights(tmp_path)], measure(Classifier, accuracy)
    )
    assert [list(Ingredients.load(tmp_path)).index(member) for member in soup.ingredients] == members


def test_a_loaded_soup_is_saved_again_without_its_ingredients(recorded: Path, tmp_path: Path) -> None:
    soup = cook(recorded, output=tmp_path / "soup.ckpt")
    again = Soup.load(tmp_path / "soup.ckpt")
    again.mixture = Mixture({Ingredient(Path("gone.ckpt"), "gone"): 1.0})
    again.candidates = again.mixture.members
    again.trace = ()
    again.save(tmp_path / "copy.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(soup.state_dict().values(), again.state_dict().values(), strict=True))


def test_several_dataloaders(tmp_path: Path) -> None:
    record(tmp_path, [0.1, 0.3, 0.6])
    loaders = [DataLoader(blobs(70, seed=4), batch_size=32), DataLoader(blobs(45, seed=5), batch_size=32)]
    soup = trainer(SoupTrainer).cook(
        TwoLoaders(), loaders, ingredients=tmp_path, monitor="acc/dataloader_idx_1", mode="max"
    )
    assert set(soup.metrics) == {"acc/dataloader_idx_0", "acc/dataloader_idx_1", "named_0", "named_1"}
    assert soup.metrics["named_1"] == soup.score.value
    (inputs, labels) = blobs(45, seed=5).tensors

    def evaluate(state_dict: dict[str, Tensor]) -> float:
        module = Classifier().eval()
        module.load_state_dict(state_dict)
        return accuracy(module(inputs), labels)

    members, scores = reference_greedy(weights(tmp_path), evaluate)
    assert [list(Ingredients.load(tmp_path)).index(member) for member in soup.ingredients] == members
    assert [row.score.value for row in soup.trace if not row.cached] == pytest.approx(scores, abs=1e-6)
    assert soup.trace[0].samples == 115


def test_dataloaders_are_requested_once(recorded: Path, tmp_path: Path) -> None:
    class Counting(Blobs):
        requests = 0

        def val_dataloader(self) -> DataLoader:
            self.requests += 1
            return super().val_dataloader()

    counting = Counting()
    cook(recorded, datamodule=counting, output=tmp_path / "s.ckpt")
    assert counting.requests == 1


def test_callbacks_hooks_and_on_load_checkpoint_run_for_every_pass(recorded: Path, tmp_path: Path) -> None:
    events: list[str] = []

    class Watching(Classifier):
        def on_load_checkpoint(self, checkpoint: dict) -> None:
            events.append(f"load {sorted(checkpoint['hyper_parameters'])}")

        def on_validation_epoch_start(self) -> None:
            assert not self.training
            events.append("start")

    class Callbacks(Callback):
        def on_validation_end(self, trainer, pl_module) -> None:
            events.append("end")

    soup = trainer(SoupTrainer, callbacks=[Callbacks()]).cook(
        Watching(), datamodule=Blobs(), ingredients=recorded, output=tmp_path / "s.ckpt", early_rejection=False
    )
    passes = sum(not row.cached for row in soup.trace)
    assert events == ["load ['hidden', 'lr']", "start", "end"] * passes


def test_mode_comes_from_the_logged_metric_when_nothing_is_recorded(recorded: Path, tmp_path: Path) -> None:
    paths = [ingredient.path for ingredient in Ingredients.load(recorded)]
    for path in paths:
        (tmp_path / path.parent.name).with_suffix(".ckpt").write_bytes(path.read_bytes())
    soup = cook(str(tmp_path / "*.ckpt"), monitor="val_acc")
    assert soup.score.mode == "max"
    with pytest.raises(MisconfigurationException, match=r"'val_loss' is better is not known.*mode='max'"):
        cook(str(tmp_path / "*.ckpt"), monitor="val_loss")
    with pytest.raises(MisconfigurationException, match="Pass `monitor`"):
        cook(str(tmp_path / "*.ckpt"))


def test_what_cannot_work_is_refused_with_a_reason(recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"'val_f1'` was not logged.*'val_acc', 'val_loss'"):
        cook(recorded, monitor="val_f1")
    with pytest.raises(ValueError, match="'min' or 'max', got 'best'"):
        cook(recorded, mode="best")
    with pytest.raises(MisconfigurationException, match="needs a `model`"):
        trainer(SoupTrainer).cook(ingredients=recorded)
    with pytest.raises(MisconfigurationException, match="must be a Recipe"):
        cook(recorded, recipe="greedy")
    with pytest.raises(MisconfigurationException, match="no held-out data"):
        trainer(SoupTrainer, limit_val_batches=0).cook(Classifier(), datamodule=Blobs(), ingredients=recorded)
    with pytest.raises(MisconfigurationException, match=r"(?s)do not fit the Classifier.*size mismatch"):
        cook(recorded, Classifier(hidden=4))
    record(tmp_path, [0.1], lambda lr: Classifier(lr, hidden=4))
    paths = [Ingredients.load(recorded)[0].path, Ingredients.load(tmp_path)[0].path]
    with pytest.raises(ValueError, match=r"(?s)do not fit together.*net\.0\.weight: shape \(8, 6\) against \(4, 6\)"):
        cook(paths)


def test_different_initializations_are_pointed_out(recorded: Path, tmp_path: Path) -> None:
    record(tmp_path, [0.1], seed=1)
    record(tmp_path, [0.1], seed=2)
    with pytest.warns(UserWarning, match="2 different initializations"):
        cook(tmp_path)


def test_a_diverged_ingredient_is_left_out(recorded: Path, tmp_path: Path) -> None:
    paths = [ingredient.path for ingredient in Ingredients.load(recorded)]
    for number, path in enumerate(paths):
        checkpoint = torch.load(path, weights_only=True)
        if number == 0:
            checkpoint["state_dict"]["net.0.weight"].fill_(math.nan)
        torch.save(checkpoint, tmp_path / f"{number}.ckpt")
    soup = cook(str(tmp_path / "*.ckpt"), monitor="val_loss", mode="min", on_bad_ingredient="skip")
    assert "0.ckpt" not in {member.path.name for member in soup.ingredients}
    assert math.isfinite(soup.score.value)


def test_greedy_is_the_default_recipe(recorded: Path, tmp_path: Path) -> None:
    assert cook(recorded, output=tmp_path / "a.ckpt").recipe == GreedySoup.__name__
