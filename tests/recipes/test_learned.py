"""The learned soup: its gradient against autograd and finite differences, its result against a plain loop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader

from lightning_soups import Ingredients, LearnedSoup, Mixture, Recipe, Soup, SoupTrainer
from lightning_soups.evaluation.learner import Gradient, Learner
from lightning_soups.weights import read_checkpoint
from tests.helpers import CLASSES, FEATURES, Blobs, Classifier, blobs, record, trainer


class Normed(Classifier):
    """With BatchNorm, a frozen layer, and a parameter that the loss does not reach."""

    def __init__(self, lr: float = 0.05) -> None:
        super().__init__(lr)
        self.net = nn.Sequential(
            nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, CLASSES)
        )
        self.net[3].weight.requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(2))


class Asking(Recipe):
    """Calls a function with the ingredients and a learner."""

    def __init__(self, ask: Callable[[Ingredients, Learner], None], batch_size: int = 1000, share: float = 0.2) -> None:
        self.ask, self.batch_size, self.share = ask, batch_size, share

    def cook(self, ingredients: Ingredients, evaluator: Any) -> Mixture:
        self.ask(ingredients, evaluator.learner("val_loss", self.batch_size, self.share, 3))
        return Mixture.uniform(ingredients)


@pytest.fixture(scope="module", params=[Classifier, Normed])
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[type, Path]:
    directory = tmp_path_factory.mktemp("soups")
    record(directory, [0.02, 0.1, 0.5], make=request.param)
    return request.param, directory


def learned_on(learner: Any) -> list[int]:
    """Which held-out samples a learner learns on; the data have one dataloader."""
    return sorted(row for _, row in learner._training)


def reference_loss(make: type[LightningModule], members: list[dict[str, Tensor]], rows: list[int]) -> Callable:
    """The loss of coefficients, float64, as one differentiable function of them, shape (tensors, N)."""
    module = make().double().eval()
    inputs, labels = (tensor[rows] for tensor in blobs(101, seed=2).tensors)
    names = [name for name, _ in module.named_parameters()]

    def loss(coefficients: Tensor, of_buffers: Tensor | None = None) -> Tensor:
        """Buffers go with the parameters of their layer, but are not differentiated."""
        of_buffers = (coefficients if of_buffers is None else of_buffers).detach()
        mixed = {}
        for name in members[0]:
            stacked = torch.stack([member[name].double() for member in members])
            layer = name.rpartition(".")[0]
            sibling = next((row for row, other in enumerate(names) if other.rpartition(".")[0] == layer), 0)
            own = coefficients[names.index(name)] if name in names else of_buffers[sibling]
            mixed[name] = torch.tensordot(own, stacked, dims=1)
        return nn.functional.cross_entropy(functional_call(module, mixed, (inputs.double(),)), labels)

    loss.names = names  # type: ignore[attr-defined]
    return loss


def test_the_gradient_is_that_of_autograd_and_of_finite_differences(recorded: tuple[type, Path]) -> None:
    make, directory = recorded
    found = Ingredients.load(directory)
    members = [read_checkpoint(one.path)["state_dict"] for one in found]
    coefficients = [0.5, -0.1, 0.7]
    seen: dict[str, Any] = {}

    def ask(ingredients: Ingredients, learner: Learner) -> None:
        seen["gradient"] = learner.gradient(Mixture(dict(zip(ingredients, coefficients, strict=True))), 0)
        seen["rows"] = learned_on(learner)

    module = make()
    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    cooking = trainer(SoupTrainer, precision="64-true")
    cooking.cook(module, datamodule=Blobs(), ingredients=directory, recipe=Asking(ask))
    gradient: Gradient = seen["gradient"]
    assert len(seen["rows"]) == 81
    loss = reference_loss(make, members, seen["rows"])
    at = torch.tensor([coefficients] * len(loss.names), dtype=torch.float64, requires_grad=True)
    value = loss(at)
    (expected,) = torch.autograd.grad(value, at)
    # the members are float32 on disk and a mixture is rounded to that, as a saved soup is
    assert gradient.loss == pytest.approx(float(value.detach()), rel=1e-6)
    got = torch.stack([gradient.by_parameter[name] for name in loss.names])
    torch.testing.assert_close(got, expected, rtol=2e-5, atol=1e-6)
    for row, name in enumerate(loss.names):
        for one in range(3):
            step = torch.zeros_like(at)
            step[row, one] = 1e-5
            difference = (loss(at.detach() + step, at) - loss(at.detach() - step, at)) / 2e-5
            assert float(gradient.by_parameter[name][one]) == pytest.approx(float(difference), rel=1e-4, abs=1e-6)
    assert [name for name, parameter in module.named_parameters() if not parameter.requires_grad] == frozen
    assert all(parameter.grad is None for parameter in module.parameters())


def test_steps_see_every_sample_once_and_never_what_is_kept_back(recorded: tuple[type, Path]) -> None:
    make, directory = recorded
    seen: dict[str, Any] = {}

    def ask(ingredients: Ingredients, learner: Any) -> None:
        epochs = [[learner._samples_of(step) for step in range(start, start + learner.steps)] for start in (0, 5)]
        seen["epochs"] = [[row for step in epoch for _, row in step] for epoch in epochs]
        seen["sizes"] = [len(step) for step in epochs[0]]
        seen["kept back"] = [row for _, row in learner._validation]
        uniform = Mixture.uniform(ingredients)
        steps = [learner.gradient(uniform, step) for step in range(learner.steps)]
        seen["mean"] = sum(one.loss * size for one, size in zip(steps, seen["sizes"], strict=True)) / 81
        seen["validation"] = learner.validation_loss(uniform)

    trainer(SoupTrainer, precision="64-true").cook(
        make(), datamodule=Blobs(), ingredients=directory, recipe=Asking(ask, batch_size=20)
    )
    first, second = seen["epochs"]
    assert seen["sizes"] == [20, 20, 20, 20, 1]
    assert sorted([*first, *seen["kept back"]]) == list(range(101))
    assert sorted(first) == sorted(second)
    assert first != second
    members = [read_checkpoint(one.path)["state_dict"] for one in Ingredients.load(directory)]
    for name, rows in (("mean", first), ("validation", seen["kept back"])):
        loss = reference_loss(make, members, sorted(rows))
        third = torch.full((len(loss.names), 3), 1 / 3, dtype=torch.float64)
        assert seen[name] == pytest.approx(float(loss(third)), rel=1e-5)


@pytest.mark.parametrize("by_layer", [False, True])
@pytest.mark.parametrize("softmax", [True, False])
def test_it_ends_where_a_plain_loop_ends(recorded: tuple[type, Path], by_layer: bool, softmax: bool) -> None:
    make, directory = recorded
    steps, share = 25, 0.2
    seen: dict[str, Any] = {}

    def ask(ingredients: Ingredients, learner: Any) -> None:
        seen["training"] = learned_on(learner)
        seen["validation"] = [row for _, row in learner._validation]

    exact = {"datamodule": Blobs(), "ingredients": directory, "output": directory / "learned.ckpt"}
    exact |= {"batch_norm": "average"}
    trainer(SoupTrainer, precision="64-true").cook(make(), recipe=Asking(ask, share=share), **exact)
    recipe = LearnedSoup(
        by_layer=by_layer, softmax=softmax, steps=steps, batch_size=1000, validation_share=share, seed=3
    )
    soup = trainer(SoupTrainer, precision="64-true").cook(make(), recipe=recipe, **exact)

    found = Ingredients.load(directory)
    members = [read_checkpoint(one.path)["state_dict"] for one in found]
    loss, kept_back = (reference_loss(make, members, seen[part]) for part in ("training", "validation"))
    layers = [name.rpartition(".")[0] for name in loss.names] if by_layer else [""] * len(loss.names)
    rows = torch.tensor([sorted(set(layers), key=layers.index).index(layer) for layer in layers])
    raw = (torch.zeros if softmax else torch.ones)(int(rows.max()) + 1, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([raw], lr=0.1, weight_decay=0)

    def of(values: Tensor) -> Tensor:
        return (values.softmax(dim=1) if softmax else values / 3)[rows]

    best, best_loss = raw.detach().clone(), float(kept_back(of(raw.detach())))
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss(of(raw)).backward()
        optimizer.step()
        if step in (10, 20, 25) and float(kept_back(of(raw.detach()))) < best_loss:
            best, best_loss = raw.detach().clone(), float(kept_back(of(raw.detach())))
    for row, name in enumerate(loss.names):
        expected = dict(zip(found, of(best)[row].tolist(), strict=True))
        assert soup.mixture.coefficients_of(name) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert bool(soup.mixture.layers) == by_layer
    assert Soup.load(soup.path).mixture == soup.mixture
    for name, tensor in soup.state_dict().items():
        if tensor.is_floating_point():
            own = soup.mixture.coefficients_of(name)
            total = sum(own[one] * member[name].double() for one, member in zip(found, members, strict=True))
            torch.testing.assert_close(tensor, total.to(tensor.dtype), rtol=0, atol=1e-6)


class PowerCutError(Exception):
    pass


def test_a_cook_that_is_interrupted_resumes_and_ends_with_the_same_soup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path, [0.02, 0.1, 0.5])
    recipe = LearnedSoup(steps=30, batch_size=16, by_layer=True)

    def cook(output: str) -> Soup:
        arguments = {"datamodule": Blobs(), "ingredients": tmp_path, "recipe": recipe, "output": tmp_path / output}
        return trainer(SoupTrainer).cook(Classifier(), **arguments)

    whole = cook("whole.ckpt")
    from lightning_soups.evaluation.replay_learner import ReplayLearner

    steps: list[int] = []
    original = ReplayLearner.gradient

    def gradient(self: ReplayLearner, mixture: Mixture, step: int) -> Gradient:
        steps.append(step)
        if len(steps) == 18:
            raise PowerCutError
        return original(self, mixture, step)

    monkeypatch.setattr(ReplayLearner, "gradient", gradient)
    with pytest.raises(PowerCutError):
        cook("resumed.ckpt")
    assert (tmp_path / ".resumed.ckpt.journal.state").exists()
    resumed = cook("resumed.ckpt")
    assert steps == [*range(18), *range(17, 30)]
    assert resumed.mixture == whole.mixture
    assert resumed.score == whole.score
    assert not (tmp_path / ".resumed.ckpt.journal.state").exists()


def test_progress_of_another_recipe_is_not_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path, [0.02, 0.1])
    arguments = {"datamodule": Blobs(), "ingredients": tmp_path, "output": tmp_path / "s.ckpt"}
    state = tmp_path / ".s.ckpt.journal.state"
    monkeypatch.setattr("lightning_soups.evaluation.journal.Journal.forget", lambda self: None)
    trainer(SoupTrainer).cook(Classifier(), recipe=LearnedSoup(steps=3), **arguments)
    kept = state.read_text()
    soup = trainer(SoupTrainer).cook(Classifier(), recipe=LearnedSoup(steps=2), **arguments)
    assert state.read_text() != kept
    assert "of 2 steps" in soup.trace[-1].label
    state.write_text("{broken")
    trainer(SoupTrainer).cook(Classifier(), recipe=LearnedSoup(steps=2), **arguments)


class Ragged(Blobs):
    """Batches that cannot be grouped anew: a list of different lengths."""

    def val_dataloader(self) -> DataLoader:
        def collate(samples: list) -> list:
            inputs, labels = zip(*samples, strict=True)
            return [torch.stack(inputs), torch.stack(labels), torch.zeros(len(samples), int(labels[0]) + 1)]

        return DataLoader(blobs(101, seed=2), batch_size=8, collate_fn=collate, sampler=list(range(101)))


def test_batches_that_cannot_be_regrouped_are_learned_on_whole(tmp_path: Path) -> None:
    record(tmp_path, [0.02, 0.1, 0.5])
    seen: dict[str, Any] = {}

    def ask(ingredients: Ingredients, learner: Any) -> None:
        seen["units"] = len(learner._training) + len(learner._validation)
        seen["loss"] = learner.gradient(Mixture.uniform(ingredients), 0).loss

    arguments = {"datamodule": Ragged(), "ingredients": tmp_path, "output": tmp_path / "s.ckpt"}
    trainer(SoupTrainer).cook(Classifier(), recipe=Asking(ask, batch_size=32), **arguments)
    assert seen["units"] == 13
    assert seen["loss"] > 0
    with pytest.raises(MisconfigurationException, match="which these dataloaders cannot give"):
        trainer(SoupTrainer).cook(Classifier(), recipe=LearnedSoup(steps=1), cache_batches="off", **arguments)


class Detached(Classifier):
    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("detached", loss.detach())


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("nope", r"`loss='nope'` was not logged as a number.*Numbers that were logged: \['detached', 'val_loss'\]"),
        ("val_acc", "`loss='val_acc'` was not logged as a number"),
        ("detached", r"`loss='detached'` has no gradient.*Logged with a gradient were: \['val_loss'\]"),
    ],
)
def test_a_loss_that_cannot_be_learned_by_is_refused(tmp_path: Path, loss: str, message: str) -> None:
    record(tmp_path, [0.1, 0.2], make=Detached)
    module = Detached()
    with pytest.raises(MisconfigurationException, match=message):
        trainer(SoupTrainer).cook(module, datamodule=Blobs(), ingredients=tmp_path, recipe=LearnedSoup(loss=loss))
    assert "log" not in vars(module)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": ""}, "`loss` must name a logged number"),
        ({"lr": 0.0}, r"`lr` must be a positive number, got 0\.0"),
        ({"validation_share": 1.0}, r"between 0 and 1, got 1\.0"),
        ({"steps": 0}, "`steps` must be at least 1, got 0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LearnedSoup(**options)


def test_too_little_data_is_refused(tmp_path: Path) -> None:
    record(tmp_path, [0.1, 0.2])
    with pytest.raises(MisconfigurationException, match="too little held-out data to keep 20% of it back"):
        trainer(SoupTrainer).cook(
            Classifier(), datamodule=Blobs(held_out=1), ingredients=tmp_path, recipe=LearnedSoup()
        )


def test_two_processes_learn_together(tmp_path: Path) -> None:
    """Each learns on its own samples; the gradients are added up, so both end with the same coefficients."""
    record(tmp_path, [0.02, 0.1, 0.5])
    recipe = LearnedSoup(steps=5, batch_size=1000)
    arguments = {"datamodule": Blobs(), "ingredients": tmp_path, "recipe": recipe, "output": tmp_path / "two.ckpt"}
    soup = trainer(SoupTrainer, devices=2, strategy="ddp_spawn").cook(Classifier(), **arguments)
    one = trainer(SoupTrainer).cook(Classifier(), **{**arguments, "output": tmp_path / "one.ckpt"})
    assert soup.mixture.coefficients == pytest.approx(one.mixture.coefficients, rel=0.05)
    assert sum(soup.mixture.coefficients.values()) == pytest.approx(1)
    assert [row.samples for row in soup.trace] == [101, 101]
