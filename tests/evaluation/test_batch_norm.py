"""Running statistics of mixtures, on real networks with BatchNorm, against plain PyTorch."""

import copy
import logging
import random
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from lightning_soups import GreedySoup, Ingredients, LearnedSoup, Soup, SoupTrainer, UniformSoup
from lightning_soups.evaluation.training_batches import TrainingBatches
from tests.helpers import CLASSES, FEATURES, Classifier, assert_same_scores, blobs, mean, reference_greedy, trainer

TWO = {"devices": 2, "strategy": "ddp_spawn"}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class DigitsNet(LightningModule):
    """Eight convolutions with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        layers = [
            part
            for number in range(8)
            for part in (
                nn.Conv2d(12 if number else 1, 12, 3, padding=1, stride=1 + (number == 1), bias=False),
                nn.BatchNorm2d(12),
                nn.ReLU(),
            )
        ]
        self.net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10))
        self.val_acc = MulticlassAccuracy(10, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.val_acc(self(batch[0]), batch[1])
        self.log("val_acc", self.val_acc)


def digits() -> tuple[TensorDataset, TensorDataset]:
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], torch.tensor(data.target)[order]
    return TensorDataset(images[:1000], labels[:1000]), TensorDataset(images[1000:], labels[1000:])


class Digits(LightningDataModule):
    def train_dataloader(self) -> DataLoader:
        return DataLoader(digits()[0], batch_size=100)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(digits()[1], batch_size=200)


def train(module: nn.Module, data: TensorDataset, lr: float, epochs: int, seed: int) -> None:
    torch.manual_seed(seed)
    module.train()
    optimizer = torch.optim.Adam(module.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, epochs * len(data) // 100)
    images, labels = data.tensors
    for _ in range(epochs):
        for batch in torch.randperm(len(data)).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()


def save(module: nn.Module, path: Path, **more: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": module.state_dict(), "pytorch-lightning_version": "2.6.0", **more}, path)
    return str(path)


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Five networks, from one that was pretrained, with high learning rates."""
    folder = tmp_path_factory.mktemp("digits")
    torch.manual_seed(0)
    start = DigitsNet()
    train(start, digits()[0], 0.01, 4, seed=0)
    paths = []
    for number, lr in enumerate((0.04, 0.04, 0.05, 0.06, 0.06)):
        network = copy.deepcopy(start)
        train(network, digits()[0], lr, 5, seed=1 + number)
        paths.append(save(network, folder / f"{number}.ckpt"))
    return paths


def cook(module: LightningModule, ingredients: Sequence[str], output: Path, **options: object) -> Soup:
    return trainer(SoupTrainer, **options.pop("trainer", {})).cook(
        module, ingredients=list(ingredients), monitor=options.pop("monitor", "val_acc"), output=output, **options
    )


def accuracy(module: nn.Module, state_dict: dict[str, Tensor], recalculate_on: DataLoader | None = None) -> float:
    module = copy.deepcopy(module)
    module.load_state_dict(state_dict)
    if recalculate_on is not None:
        update_bn(recalculate_on, module)
    module.eval()
    images, labels = digits()[1].tensors
    with torch.no_grad():
        return float((module(images).argmax(dim=1) == labels).double().mean())


def states(paths: Sequence[str]) -> list[dict[str, Tensor]]:
    return [torch.load(path, weights_only=True)["state_dict"] for path in paths]


def test_a_uniform_soup_of_real_networks_needs_recalculated_statistics(fine_tuned: list[str], tmp_path: Path) -> None:
    """The finding, by our cooks and by plain PyTorch."""
    uniform = {"datamodule": Digits(), "recipe": UniformSoup()}
    averaged = cook(DigitsNet(), fine_tuned, tmp_path / "a.ckpt", **uniform, batch_norm="average")
    ours = cook(DigitsNet(), fine_tuned, tmp_path / "r.ckpt", **uniform, batch_norm="recalculate")
    soup, loader = mean(states(fine_tuned)), Digits().train_dataloader()
    assert averaged.score.value == pytest.approx(accuracy(DigitsNet(), soup), abs=1e-6)
    assert ours.score.value == pytest.approx(accuracy(DigitsNet(), soup, loader), abs=1e-6)
    best = max(accuracy(DigitsNet(), one) for one in states(fine_tuned))
    assert averaged.score.value < best - 0.2
    assert ours.score.value > averaged.score.value + 0.2
    assert (averaged.batch_norm, ours.batch_norm) == (None, "recalculated")


@pytest.mark.parametrize("early_rejection", [True, False])
def test_greedy_is_the_published_recipe_with_recalculated_candidates(
    fine_tuned: list[str], tmp_path: Path, early_rejection: bool
) -> None:
    """A plain loop with torch's ``update_bn``: nothing that was recalculated is left in what comes next."""
    singles, loader = states(fine_tuned), Digits().train_dataloader()

    def evaluate(state_dict: dict[str, Tensor]) -> float:
        single = any(state_dict is one for one in singles)
        return accuracy(DigitsNet(), state_dict, None if single else loader)

    members, scores = reference_greedy(singles, evaluate)
    options = {"datamodule": Digits(), "early_rejection": early_rejection}
    soup = cook(DigitsNet(), fine_tuned, tmp_path / "soup.ckpt", **options)
    assert [str(one.path) for one in soup.ingredients] == [fine_tuned[index] for index in members]
    final = [row for row in soup.trace if row.label]
    if len(members) == 1:  # how networks train depends on the machine; a single one keeps its own statistics
        assert final == []
        return
    soup_trace = Soup.load(tmp_path / "soup.ckpt").trace
    assert [row.label for row in final] == ["soup, statistics averaged", "soup, statistics recalculated"]
    soup.trace = soup.trace[:-2]
    assert_same_scores(soup, Ingredients.load(fine_tuned), scores)
    assert [row.accepted for row in final] == [False, True]
    assert [row.samples for row in final] == [797, 0]
    assert final[1].score == soup.score
    if not early_rejection:
        assert {row.samples for row in soup.trace} == {797, 0}  # training batches are not counted
    assert len(soup_trace) == len(soup.trace) + 2

    averaged = cook(DigitsNet(), fine_tuned, tmp_path / "a.ckpt", **options, batch_norm="average")
    assert len(averaged.ingredients) == 1 < len(soup.ingredients)
    assert averaged.score < soup.score


def test_what_is_saved_is_what_was_scored(fine_tuned: list[str], tmp_path: Path) -> None:
    soup = cook(DigitsNet(), fine_tuned, tmp_path / "soup.ckpt", datamodule=Digits(), recipe=UniformSoup())
    network = DigitsNet()
    network.load_state_dict(mean(states(fine_tuned)))
    update_bn(Digits().train_dataloader(), network)
    saved = Soup.load(tmp_path / "soup.ckpt")
    assert saved.batch_norm == "recalculated"
    for name, tensor in saved.state_dict().items():
        assert torch.allclose(tensor, network.state_dict()[name], rtol=1e-5, atol=1e-6), name
    assert int(saved.state_dict()["net.1.num_batches_tracked"]) == 10
    (scored,) = trainer().validate(
        DigitsNet(), datamodule=Digits(), ckpt_path=str(tmp_path / "soup.ckpt"), verbose=False, weights_only=True
    )
    assert scored["val_acc"] == soup.score.value


class Odd(Classifier):
    """Its steps draw random numbers, drop out, and keep what they have seen; some layers are special."""

    def __init__(self, norm: type[nn.Module] = nn.BatchNorm1d, shared: bool = False) -> None:
        super().__init__()
        first = norm(8, affine=False)
        second = first if shared else norm(8, momentum=0.3)
        self.net = nn.Sequential(
            *(nn.Linear(FEATURES, 8), first, nn.Tanh(), nn.Dropout(0.5)),
            *(nn.Linear(8, 8), second, nn.Tanh(), nn.Linear(8, CLASSES)),
        )
        self.auxiliary = nn.BatchNorm1d(3)
        self.untracked = nn.BatchNorm1d(FEATURES, track_running_stats=False)
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.batches: list[int] = []
        self.unlogged = MulticlassAccuracy(CLASSES, average="micro")

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        torch.rand(1), random.random(), np.random.rand()
        self.untracked(batch[0])
        self.steps += 1
        self.seen += len(batch[0])
        self.batches.append(len(batch[0]))
        super().validation_step(batch, batch_idx)
        self.unlogged.update(self(batch[0]), batch[1])

    def on_validation_epoch_end(self) -> None:
        self.log("seen", self.seen)
        self.log("steps", self.steps.float())
        self.log("batches", float(sum(self.batches)))
        self.log("again", self.unlogged.compute())
        self.batches.clear()
        self.unlogged.reset()


def odd_ingredients(folder: Path, module: Odd, dtype: torch.dtype = torch.float32, spread: float = 0.2) -> list[str]:
    """Weights and statistics at random, around the same ones."""
    paths = []
    for number in range(4):
        torch.manual_seed(number)
        own = copy.deepcopy(module)
        with torch.no_grad():
            for name, tensor in own.state_dict().items():
                if tensor.is_floating_point():
                    tensor += spread * torch.rand_like(tensor) if "running" in name else 0.3 * torch.randn_like(tensor)
        paths.append(save(own.to(dtype), folder / f"{number}.ckpt"))
    return paths


def loader(samples: int, seed: int, **options: object) -> DataLoader:
    return DataLoader(blobs(samples, seed), **{"batch_size": 32, **options})


def reference_statistics(module: Odd, state_dict: dict[str, Tensor], batches: Sequence[Tensor]) -> dict[str, Tensor]:
    """Moments of each batch in float64, averaged over batches; layer by layer, dropout off."""
    module = copy.deepcopy(module)
    module.load_state_dict(state_dict)
    module.eval().double()
    layers = {name: one for name, one in module.net.named_modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)}
    found: dict[str, list[Tensor]] = {}
    for layer in layers.values():
        layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None  # those of the batch

    def note(name: str, x: Tensor) -> None:
        found.setdefault(f"net.{name}.running_mean", []).append(x.mean(dim=0))
        found.setdefault(f"net.{name}.running_var", []).append(x.var(dim=0))

    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda layer, inputs, name=name: note(name, inputs[0]))
    with torch.no_grad():
        for batch in batches:
            module(batch.double())
    return {name: torch.stack(values).mean(dim=0) for name, values in found.items()}


def test_statistics_in_float64_and_nothing_else_changes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Odd()
    module.auxiliary.eval()
    paths = odd_ingredients(tmp_path, module)
    train_data, held_out = loader(100, 1, shuffle=True, drop_last=True), loader(101, 2)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    modes = [one.training for one in module.modules()]
    with pytest.warns(UserWarning, match=r"does not use these BatchNorm layers.*\['auxiliary'\]"):
        soup = cook(module, paths, tmp_path / "s.ckpt", dataloaders=held_out, train_dataloaders=train_data)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert [one.training for one in module.modules()] == modes
    assert (module.net[1].momentum, module.net[5].momentum, module.batches) == (0.1, 0.3, [])
    assert not any(vars(one).get("forward") for one in module.modules())
    assert (soup.metrics["seen"], soup.metrics["batches"], soup.metrics["steps"]) == (101, 101, 4)
    assert soup.metrics["again"] == pytest.approx(soup.metrics["val_acc"])

    uniform = {"recipe": UniformSoup(), "batch_norm": "recalculate", "batch_norm_batches": 2}
    options = {"dataloaders": held_out, "train_dataloaders": train_data}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        soup = cook(module, paths, tmp_path / "u.ckpt", **options, **uniform, cache_batches="off")
    assert soup.batch_norm == "recalculated"
    read = [batch[0] for batch in TrainingBatches(train_data, 2)]
    assert [len(batch) for batch in read] == [32, 32]
    expected, found = reference_statistics(module, mean(states(paths)), read), soup.state_dict()
    assert len(expected) == 4
    for name, value in expected.items():
        assert torch.allclose(found[name].double(), value, rtol=1e-5, atol=1e-6), name
    averaged = mean(states(paths))
    assert torch.equal(found["auxiliary.running_var"], averaged["auxiliary.running_var"])


class Counting(TensorDataset):
    """Counts what is read, and changes it at random."""

    def __init__(self, *tensors: Tensor) -> None:
        super().__init__(*tensors)
        self.read: list[int] = []

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        self.read.append(index)
        x, y = super().__getitem__(index)
        return x + torch.rand(()) + random.random() + np.random.rand(), y


@pytest.mark.parametrize("generator", [None, torch.Generator().manual_seed(7)])
def test_training_batches_are_the_same_ones_and_no_generator_notices(generator: torch.Generator | None) -> None:
    """Whatever was drawn before, or is drawn while a step runs."""
    data = Counting(*blobs(100, 1).tensors)
    shuffled = DataLoader(data, batch_size=32, shuffle=True, generator=generator)

    def state() -> list[object]:
        own = generator.get_state().tolist() if generator is not None else None
        return [own, torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]

    def draw() -> None:
        torch.rand(3, generator=generator), torch.rand(3), random.random(), np.random.rand()

    before = state()
    first = [batch[0].clone() for batch in TrainingBatches(shuffled, 3)]
    assert state() == before
    draw()
    batches = TrainingBatches(shuffled, 3)
    second = []
    for batch in batches:
        second.append(batch[0])
        draw()
    assert len(batches) == len(first) == 3
    assert all(map(torch.equal, first, second))
    assert len(set(data.read)) == 96
    assert data.read[:96] == data.read[96:] != sorted(data.read[:96])  # it is shuffled


@pytest.mark.parametrize("cache_batches", ["auto", "off"])
def test_batches_are_read_once(tmp_path: Path, cache_batches: str) -> None:
    data = Counting(*blobs(100, 1).tensors)
    options = {"dataloaders": loader(101, 2), "train_dataloaders": DataLoader(data, batch_size=10, shuffle=True)}
    options |= {"batch_norm": "recalculate", "batch_norm_batches": 3, "cache_batches": cache_batches}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        soup = cook(Odd(), odd_ingredients(tmp_path, Odd()), tmp_path / "s.ckpt", **options, early_rejection=False)
    candidates = [row for row in soup.trace if row.accepted is not None and not row.label]
    passes = 1 if cache_batches == "auto" else 1 + len(candidates)
    assert len(data.read) == 30 * passes
    assert data.read == data.read[:30] * passes
    assert len(set(data.read)) == 30


def test_loaders_of_other_kinds() -> None:
    stream = [[torch.full((2, 1), float(number))] for number in range(5)]
    assert [float(batch[0][0]) for batch in TrainingBatches(iter_only(stream), 3)] == [0, 1, 2]
    assert len(list(TrainingBatches(iter_only(stream), 9))) == 5
    assert len(TrainingBatches(DataLoader(blobs(64, 0), batch_size=8), 50, limit=0.5)) == 4
    assert len(TrainingBatches(DataLoader(blobs(64, 0), batch_size=8), 50, limit=3)) == 3
    several = TrainingBatches({"a": loader(40, 1), "b": loader(64, 2)}, 5)
    assert [sorted(batch) for batch in several] == [["a", "b"]] * 2


class _Stream(torch.utils.data.IterableDataset):
    def __init__(self, batches: Sequence[object]) -> None:
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def iter_only(batches: Sequence[object]) -> DataLoader:
    return DataLoader(_Stream(batches), batch_size=None)


class Prepared(LightningDataModule):
    """Has training data only after ``prepare_data`` and ``setup("fit")``."""

    def prepare_data(self) -> None:
        self.prepared = True

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.prepared:
            self.data = blobs(64, 1)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.data, batch_size=32)

    def val_dataloader(self) -> DataLoader:
        return loader(101, 2)


class WithOwnData(Odd):
    def setup(self, stage: str) -> None:
        self.own = blobs(64, 1) if stage == "fit" else None

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.own, batch_size=32)


def test_where_training_data_come_from(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = odd_ingredients(tmp_path, Odd())
    held_out = loader(101, 2)
    sources = [
        (Odd(), {"datamodule": Prepared()}),
        (Odd(), {"dataloaders": Prepared()}),
        (WithOwnData(), {"dataloaders": held_out}),
        (Odd(), {"dataloaders": held_out, "train_dataloaders": loader(64, 1)}),
    ]
    found = []
    with warnings.catch_warnings(), caplog.at_level(logging.INFO):
        warnings.simplefilter("ignore")
        for module, source in sources:
            soup = cook(module, paths, tmp_path / "s.ckpt", **source, recipe=UniformSoup())
            found.append([row.score.value for row in soup.trace])
    assert found == found[:1] * len(sources)
    text = "running statistics of 3 BatchNorm layers, which do not mix, are recalculated on 2 training batches"
    assert caplog.text.count(text) == len(sources)


def test_without_training_data_statistics_are_averaged_or_it_is_refused(tmp_path: Path) -> None:
    paths = odd_ingredients(tmp_path, Odd())
    arguments = (Odd(), paths, tmp_path / "s.ckpt")
    options = {"dataloaders": loader(101, 2), "recipe": UniformSoup()}
    with pytest.warns(UserWarning, match="there are no training batches.*`train_dataloaders`"):
        default = cook(*arguments, **options)
    averaged = cook(*arguments, **options, batch_norm="average")
    assert default.metrics == averaged.metrics
    assert default.batch_norm is averaged.batch_norm is None
    for batch_norm in ("recalculate", "recalculate_final"):
        with pytest.raises(MisconfigurationException, match=r"there are no training batches.*`train_dataloaders`"):
            cook(*arguments, **options, batch_norm=batch_norm)
    with pytest.raises(MisconfigurationException, match="there are no training batches"):
        cook(
            *arguments, **options, datamodule=None, train_dataloaders=loader(64, 1), batch_norm="recalculate",
            trainer={"limit_train_batches": 0},
        )  # fmt: skip


def test_training_batches_that_validation_step_does_not_take(tmp_path: Path) -> None:
    paths = odd_ingredients(tmp_path, Odd())
    views = DataLoader(TensorDataset(blobs(64, 1).tensors[0]), batch_size=32)
    options = {"dataloaders": loader(101, 2), "train_dataloaders": views, "recipe": UniformSoup()}
    with pytest.warns(UserWarning, match="trying it raised IndexError.*whose batches `validation_step` takes"):
        default = cook(Odd(), paths, tmp_path / "s.ckpt", **options)
    assert default.metrics == cook(Odd(), paths, tmp_path / "a.ckpt", **options, batch_norm="average").metrics
    with pytest.raises(MisconfigurationException, match=r"trying it raised IndexError.*`validation_step` takes"):
        cook(Odd(), paths, tmp_path / "s.ckpt", **options, batch_norm="recalculate")


def test_where_there_is_nothing_to_recalculate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = [save(Classifier(), tmp_path / "plain" / f"{number}.ckpt") for number in range(2)]
    options = {"dataloaders": loader(101, 2), "train_dataloaders": loader(64, 1)}
    with pytest.raises(MisconfigurationException, match="has no BatchNorm layers"):
        cook(Classifier(), plain, tmp_path / "s.ckpt", **options, batch_norm="recalculate")
    frozen = odd_ingredients(tmp_path, Odd())
    same = states(frozen[:1])[0]
    for path in frozen:
        own = torch.load(path, weights_only=True)
        own["state_dict"] |= {name: value for name, value in same.items() if "running" in name}
        torch.save(own, path)
    message = "all ingredients have the same ones, or `weights` leaves them out"
    with pytest.raises(MisconfigurationException, match=message):
        cook(Odd(), frozen, tmp_path / "s.ckpt", **options, batch_norm="recalculate_final")
    with caplog.at_level(logging.INFO), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        for module, paths in ((Classifier(), plain), (Odd(), frozen)):
            soup = cook(module, paths, tmp_path / "s.ckpt", **options)
            assert soup.batch_norm is None
            assert not any(row.label for row in soup.trace)
    assert "BatchNorm" not in caplog.text


@pytest.mark.parametrize(("name", "value"), [("batch_norm", "recompute"), ("batch_norm_batches", 0)])
def test_options_are_checked(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(MisconfigurationException, match=f"`{name}` must be .* got {value!r}"):
        cook(Odd(), odd_ingredients(tmp_path, Odd()), tmp_path / "s.ckpt", **{name: value})


@pytest.mark.filterwarnings("ignore")
def test_a_single_ingredient_keeps_its_own_statistics(tmp_path: Path) -> None:
    paths = odd_ingredients(tmp_path, Odd())
    options = {"dataloaders": loader(101, 2), "train_dataloaders": loader(64, 1)}
    soup = cook(Odd(), paths[:1], tmp_path / "s.ckpt", **options)
    assert soup.batch_norm is None
    recorded = states(paths)[0]
    assert all(torch.equal(tensor, recorded[name]) for name, tensor in soup.state_dict().items())


@pytest.mark.filterwarnings("ignore")
def test_half_precision_ingredients_and_a_shared_layer(tmp_path: Path) -> None:
    """Statistics that are rounded to the file's dtype after they were scored would be others."""
    module = Odd(shared=True)
    paths = odd_ingredients(tmp_path, module, torch.float16, spread=20)
    options = {"dataloaders": loader(101, 2), "train_dataloaders": loader(96, 1), "monitor": "val_loss", "mode": "min"}
    soup = cook(module, paths, tmp_path / "s.ckpt", **options, recipe=UniformSoup(), batch_norm="recalculate")
    assert soup.batch_norm == "recalculated"
    saved = soup.state_dict()
    assert saved["net.1.running_var"].dtype == torch.float16
    assert torch.equal(saved["net.1.running_var"], saved["net.5.running_var"])
    (scored,) = trainer().validate(
        Odd(shared=True), options["dataloaders"], str(tmp_path / "s.ckpt"), verbose=False, weights_only=True
    )
    assert scored["val_loss"] == pytest.approx(soup.score.value, rel=1e-6)  # Lightning sums in float32


@pytest.mark.filterwarnings("ignore")
def test_only_the_chosen_soup(fine_tuned: list[str], tmp_path: Path) -> None:
    options = {"datamodule": Digits(), "recipe": UniformSoup()}
    final = cook(DigitsNet(), fine_tuned, tmp_path / "f.ckpt", **options, batch_norm="recalculate_final")
    every = cook(DigitsNet(), fine_tuned, tmp_path / "e.ckpt", **options, batch_norm="recalculate")
    assert final.metrics == every.metrics
    assert [row.score for row in final.trace if row.label] == [row.score for row in every.trace if row.label]
    assert [row.cached for row in final.trace if row.label] == [True, False]
    assert all(torch.equal(tensor, every.state_dict()[name]) for name, tensor in final.state_dict().items())
    greedy = {"datamodule": Digits(), "batch_norm": "recalculate_final"}
    assert len(cook(DigitsNet(), fine_tuned, tmp_path / "g.ckpt", **greedy).ingredients) == 1


@pytest.mark.filterwarnings("ignore")
def test_averaged_statistics_are_kept_where_they_are_better(tmp_path: Path) -> None:
    """Training data that are nothing like the held-out ones."""
    paths = odd_ingredients(tmp_path, Odd())
    x, y = blobs(64, 1).tensors
    strange = DataLoader(TensorDataset(1000 * x + 5000, y), batch_size=32)
    options = {"dataloaders": loader(101, 2), "monitor": "val_loss", "mode": "min", "recipe": UniformSoup()}
    soup = cook(Odd(), paths, tmp_path / "s.ckpt", **options, train_dataloaders=strange, batch_norm="recalculate")
    averaged = cook(Odd(), paths, tmp_path / "a.ckpt", **options, batch_norm="average")
    assert (soup.batch_norm, soup.score) == ("averaged", averaged.score)
    assert [row.accepted for row in soup.trace if row.label] == [True, False]
    assert all(torch.equal(tensor, averaged.state_dict()[name]) for name, tensor in soup.state_dict().items())


@pytest.mark.filterwarnings("ignore")
def test_a_learned_soup_takes_steps_with_averaged_statistics(tmp_path: Path) -> None:
    paths = odd_ingredients(tmp_path, Odd())
    data = Counting(*blobs(96, 1).tensors)
    options = {"dataloaders": loader(101, 2), "recipe": LearnedSoup(steps=3), "cache_batches": "off"}
    options["train_dataloaders"] = DataLoader(data, batch_size=32)
    soup = cook(Odd(), paths, tmp_path / "s.ckpt", **options, batch_norm="recalculate")
    scores = {row.label: row.score for row in soup.trace}
    (learned,) = (label for label in scores if label.startswith("learned"))
    assert scores["soup, statistics recalculated"] == scores[learned]
    assert len(data.read) == 3 * 96  # once to try it out, then for the start and for what was learned


def test_soups_from_before_are_loaded(fine_tuned: list[str], tmp_path: Path) -> None:
    soup = cook(DigitsNet(), fine_tuned[:1], tmp_path / "s.ckpt", datamodule=Digits())
    checkpoint = torch.load(tmp_path / "s.ckpt", weights_only=True)
    del checkpoint["lightning_soups"]["batch_norm"]
    torch.save(checkpoint, tmp_path / "s.ckpt")
    assert Soup.load(tmp_path / "s.ckpt").batch_norm is None
    assert Soup.load(tmp_path / "s.ckpt").score == soup.score


class Shuffled(LightningDataModule):
    def train_dataloader(self) -> DataLoader:
        return loader(97, 1, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return loader(151, 2)


@pytest.mark.filterwarnings("ignore")
def test_two_processes_recalculate_what_one_does(tmp_path: Path) -> None:
    """In the same shuffled order; layers that exchange statistics in training, which CPU cannot, do not do so here."""
    module = Odd(nn.SyncBatchNorm)
    paths = odd_ingredients(tmp_path, module)
    options = {"datamodule": Shuffled(), "recipe": GreedySoup(), "batch_norm": "recalculate"}
    one = cook(module, paths, tmp_path / "one.ckpt", **options)
    two = cook(module, paths, tmp_path / "two.ckpt", **options, trainer=TWO)
    assert len(one.ingredients) > 1
    assert one.batch_norm == "recalculated"
    assert two.mixture == one.mixture
    assert [row.accepted for row in two.trace] == [row.accepted for row in one.trace]
    assert [row.samples for row in two.trace if row.accepted] == [row.samples for row in one.trace if row.accepted]
    assert two.score.value == pytest.approx(one.score.value, rel=1e-6)
    assert all(torch.equal(tensor, two.state_dict()[name]) for name, tensor in one.state_dict().items())
