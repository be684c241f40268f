"""The digits demo, smaller, and its decisions recomputed without Lightning or any code of ours."""

import json
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lightning_soups import Ingredients, Soup, SoupCLI
from lightning_soups.demos import Digits, DigitsClassifier
from lightning_soups.demos.compare import compare
from lightning_soups.demos.images import add_noise, augment, blur, move
from tests.helpers import assert_same_scores, mean, reference_greedy, trainer

CONFIGS = Path(__file__).parents[1] / "configs" / "digits"


@pytest.fixture(scope="module")
def cooked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pretrain, sweep and cook with the shipped configs, into a temporary folder and with fewer trials."""
    directory = tmp_path_factory.mktemp("demo") / "digits"
    theta0 = directory / "pretrained" / "digits.ckpt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["lightning-soup"])
        shared = ["--config", f"{CONFIGS}/digits.yaml", "--trainer.logger.init_args.save_dir", str(directory)]
        pretrain = [*shared, "--config", f"{CONFIGS}/pretrain.yaml"]
        SoupCLI(args=["fit", *pretrain, "--trainer.callbacks.dirpath", str(theta0.parent)])
        sweep = [*shared, "--config", f"{CONFIGS}/sweep.yaml", "--dirpath", str(directory), "--trials", "8"]
        SoupCLI(args=["sweep", *sweep, "--model.initialization", str(theta0)])
        for recipe in ("UniformSoup", "GreedySoup"):
            SoupCLI(args=["cook", *shared, "--ingredients", str(directory), "--recipe", recipe])
    return directory


def held_out() -> tuple[Tensor, Tensor]:
    """The held-out images of seed 0, taken from scikit-learn directly."""
    digits = load_digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))[747:1347]
    return torch.tensor(digits.images, dtype=torch.float32)[order] / 16, torch.tensor(digits.target)[order]


def network() -> nn.Module:
    layers = [nn.Linear(64, 128), nn.LayerNorm(128), nn.GELU(), nn.Linear(128, 128), nn.LayerNorm(128), nn.GELU()]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(128, 10))


def test_the_greedy_decisions_are_those_of_a_plain_loop(cooked: Path) -> None:
    images, labels = held_out()

    def accuracy(state_dict: dict[str, Tensor]) -> float:
        plain = network().eval()
        plain.load_state_dict({name.removeprefix("network."): tensor for name, tensor in state_dict.items()})
        with torch.no_grad():
            return (plain(images).argmax(dim=1) == labels).double().mean().item()

    paths = sorted(cooked.glob("runs/*/*.ckpt"))
    states = [torch.load(path, weights_only=True)["state_dict"] for path in paths]
    members, scores = reference_greedy(states, accuracy)
    soup = Soup.load(cooked / "soups" / "greedy.ckpt")
    assert [member.path for member in soup.ingredients] == [paths[i] for i in members]
    assert_same_scores(soup, Ingredients.load(cooked), scores)
    published = (2 * len(paths) - 1) * len(labels)
    assert sum(row.samples for row in soup.trace) < 0.7 * published, "of 4 ingredients; with 32 it is 14 %"
    expected = mean([states[i] for i in members])
    for name, tensor in soup.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1.2e-7, atol=1e-45)
    assert len(members) > 1
    for ingredient, state in zip(Ingredients.load(cooked), states, strict=True):
        assert ingredient.metrics["val_acc"] == pytest.approx(accuracy(state), abs=1e-6)
    uniform = Soup.load(cooked / "soups" / "uniform.ckpt")
    assert uniform.score.value == pytest.approx(accuracy(mean(states)), abs=1e-6)


def test_all_runs_start_from_the_pretrained_weights(cooked: Path) -> None:
    theta0 = torch.load(cooked / "pretrained" / "digits.ckpt", weights_only=True)["state_dict"]
    (initialization,) = (cooked / "initializations").iterdir()
    recorded = torch.load(initialization, weights_only=True)["state_dict"]
    assert all(torch.equal(recorded[name], tensor) for name, tensor in theta0.items())
    assert {ingredient.initialization for ingredient in Ingredients.load(cooked)} == {initialization.stem}


def test_the_comparison_says_what_lightning_measures(cooked: Path, tmp_path: Path, capsys) -> None:
    compare(str(cooked), mnist=True, output=str(tmp_path / "rows.json"))
    printed = capsys.readouterr().out
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert list(rows) == ["initialization", "best single", "uniform soup", "greedy soup"]
    columns = ["held-out", "test", "rotated", "noisy", "translated", "blurred", "mnist", "mean shift"]
    assert all(list(row) == columns for row in rows.values())
    for row in rows.values():
        assert f"{100 * row['test']:.2f}" in printed
    soup = Soup.load(cooked / "soups" / "greedy.ckpt")
    assert rows["greedy soup"]["held-out"] == pytest.approx(soup.score.value)
    assert rows["greedy soup"]["held-out"] >= rows["best single"]["held-out"]
    best = max(ingredient.metrics["val_acc"] for ingredient in Ingredients.load(cooked))
    assert rows["best single"]["held-out"] == pytest.approx(best)


def test_a_soup_loads_without_the_files_it_came_from(cooked: Path, tmp_path: Path) -> None:
    copy = tmp_path / "greedy.ckpt"
    copy.write_bytes((cooked / "soups" / "greedy.ckpt").read_bytes())
    (cooked / "pretrained").rename(tmp_path / "moved")
    try:
        model = DigitsClassifier.load_from_checkpoint(copy)
        assert trainer().validate(model, datamodule=Digits(), verbose=False)[0]["val_acc"] > 0.9
    finally:
        (tmp_path / "moved").rename(cooked / "pretrained")


def test_the_splits_do_not_overlap() -> None:
    data = Digits(seed=5)
    data.setup("fit")
    images = {name: data._splits[name].tensors[0] for name in ("pretrain", "finetune", "held-out", "test")}
    assert {name: len(split) for name, split in images.items()} == {
        "pretrain": 647,
        "finetune": 100,
        "held-out": 600,
        "test": 450,
    }
    everything = torch.cat(list(images.values())).flatten(1)
    original = torch.tensor(load_digits().data, dtype=torch.float32) / 16
    assert torch.equal(everything.sum(dim=1).sort().values, original.sum(dim=1).sort().values)
    assert data.test_names == ["test", "rotated", "noisy", "translated", "blurred"]


def test_shifts_do_what_they_say() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 3, 4] = 1.0
    assert torch.equal(augment(image, 0), image)
    torch.testing.assert_close(move(image), image)
    assert augment(image, 2, generator).shape == image.shape
    assert not torch.equal(augment(image, 1, generator), image)
    spread = blur(image, contrast=0.5)
    assert spread[0, 0, 3, 4] == 0.125
    assert spread.sum() == 0.5
    noisy = add_noise(torch.full((1000, 1, 8, 8), 0.5), 0.1, generator)
    assert noisy.std().item() == pytest.approx(0.1, rel=0.02)
    moved = move(image.expand(2000, 1, 8, 8), pixels=2, generator=generator).squeeze(1)
    rows = (moved.sum(dim=2) * torch.arange(8.0)).sum(dim=1) / moved.sum(dim=(1, 2))
    assert 1 - 1e-4 < rows.min() < 1.1
    assert 4.9 < rows.max() < 5 + 1e-4
