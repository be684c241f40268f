"""Adapter folders as ingredients, against peft's own merging of each of them in float64."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import nn

from lightning_soups import GreedySoup, LearnedSoup, Mixture, ModelStock, Recipe, Soup, SoupTrainer, UniformSoup, WiseFT
from lightning_soups.weights import read_checkpoint
from tests.adapters.tiny import (
    CONV1D,
    LINEAR,
    Plain,
    PlainGPT2,
    Tokens,
    Trained,
    Wrapped,
    WrappedGPT2,
    average_in_peft,
    bert,
    gpt2,
    held_out,
    loss_of,
    save_adapters,
)
from tests.helpers import trainer

OF_BERT = [
    {"r": 2, "lora_alpha": 4, "target_modules": LINEAR, "bias": "lora_only"},
    {"r": 3, "lora_alpha": 5, "use_rslora": True, "target_modules": LINEAR, "bias": "lora_only"},
    {
        "r": 4,
        "target_modules": LINEAR,
        "rank_pattern": {r"layer\.1\..*value": 1},
        "alpha_pattern": {"query": 3},
        "bias": "lora_only",
    },
]
OF_GPT2 = [
    {"r": 2, "target_modules": CONV1D, "fan_in_fan_out": True},
    {"r": 3, "lora_alpha": 4, "use_rslora": True, "target_modules": [*CONV1D, "wpe"], "fan_in_fan_out": True},
    {"r": 1, "target_modules": ["c_attn"], "fan_in_fan_out": True},
]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        "bert": save_adapters(folder / "bert", bert, OF_BERT),
        "gpt2": save_adapters(folder / "gpt2", gpt2, OF_GPT2),
    }


class Asking(Recipe):
    """Asks for each ingredient, then for some mixtures; serves the last."""

    def __init__(self, coefficients: list[list[float]]) -> None:
        self.coefficients = coefficients

    def cook(self, ingredients, evaluator):
        singles = [[float(one == other) for other in ingredients] for one in ingredients]
        for own in [*singles, *self.coefficients]:
            mixture = Mixture(dict(zip(ingredients, own, strict=True)))
            evaluator.score(mixture)
        return mixture


def cook(module: Plain, paths: list[Path], folder: Path, recipe: Recipe, **kwargs) -> Soup:
    given = {"ingredients": [str(path) for path in paths], "recipe": recipe, "monitor": "val_loss", "mode": "min"}
    return trainer(SoupTrainer).cook(module, datamodule=Tokens(), output=folder / "soup.ckpt", **{**given, **kwargs})


CASES = [("bert", Plain), ("bert", Trained), ("gpt2", PlainGPT2), ("gpt2", WrappedGPT2)]
BASES: dict[str, Callable[[], nn.Module]] = {"bert": bert, "gpt2": gpt2}
MIXED = [[1 / 3] * 3, [0.5, 0.5, 0.0], [0.7, -0.4, 0.7]]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_scores_and_soups_are_those_of_merged_models(adapters, tmp_path: Path, name: str, kind: type[Plain]) -> None:
    paths, base = adapters[name], BASES[name]
    module = kind()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    soup = cook(module, paths, tmp_path, Asking(MIXED))

    scores = [row.score.value for row in soup.trace]
    alone = [loss_of(PeftModel.from_pretrained(base(), path)) for path in paths]
    assert scores[:3] == pytest.approx(alone, abs=1e-6)
    references = [average_in_peft(base, paths, own) for own in MIXED]
    assert scores[3:] == pytest.approx([loss_of(one) for one in references], abs=1e-6)
    assert len({round(score, 4) for score in scores}) == 6, "the adapters must be far apart for this to say anything"

    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    saved = kind.load_from_checkpoint(tmp_path / "soup.ckpt")
    model = saved.model if kind in (Plain, PlainGPT2) else saved.model.merge_and_unload()
    for key, value in references[-1].state_dict().items():
        torch.testing.assert_close(model.state_dict()[key].double(), value, rtol=0, atol=2e-7)
    (again,) = trainer().validate(kind(), datamodule=Tokens(), ckpt_path=tmp_path / "soup.ckpt", verbose=False)
    assert again["val_loss"] == pytest.approx(scores[-1], abs=1e-6)


@pytest.mark.parametrize(("name", "kind"), CASES[::2])
def test_a_soup_is_one_adapter_of_the_summed_rank(adapters, tmp_path: Path, name: str, kind: type[Plain]) -> None:
    paths, base = adapters[name], BASES[name]
    cook(kind(), paths, tmp_path, Asking(MIXED)).save_adapter(tmp_path / "summed")
    wrapped = PeftModel.from_pretrained(base(), tmp_path / "summed")
    ranks = {len(one) for key, one in wrapped.named_parameters() if "lora_A" in key}
    assert ranks == {"bert": {9, 6}, "gpt2": {6, 5}}[name]
    reference = average_in_peft(base, paths, MIXED[-1])
    ids, _ = held_out()
    with torch.no_grad():
        torch.testing.assert_close(
            wrapped(input_ids=ids).logits.double(), reference(input_ids=ids).logits, atol=1e-5, rtol=0
        )

    second = cook(kind(), [tmp_path / "summed", *paths[:1]], tmp_path, Asking([[1.0, 0.0]]))
    assert second.score.value == pytest.approx(loss_of(reference), abs=1e-6), "it is an ingredient like any other"


def test_averaging_the_factors_would_be_another_model(adapters, tmp_path: Path) -> None:
    same_rank = save_adapters(tmp_path, bert, [OF_BERT[0]] * 2)
    wrapped = [PeftModel.from_pretrained(bert(), path) for path in same_rank]
    apart = wrapped[0]
    apart.load_state_dict(
        {key: (value + wrapped[1].state_dict()[key]) / 2 for key, value in apart.state_dict().items()}
    )
    soup = cook(Plain(), same_rank, tmp_path, UniformSoup())
    assert soup.score.value == pytest.approx(loss_of(average_in_peft(bert, same_rank, [0.5, 0.5])), abs=1e-6)
    assert abs(soup.score.value - loss_of(apart)) > 1e-3


def test_the_greedy_recipe_chooses_what_a_plain_loop_over_merged_models_does(adapters, tmp_path: Path) -> None:
    paths = adapters["gpt2"]

    def loss(members: list[int]) -> float:
        return loss_of(average_in_peft(gpt2, [paths[one] for one in members], [1 / len(members)] * len(members)))

    order = sorted(range(3), key=lambda one: loss([one]))
    chosen = order[:1]
    for one in order[1:]:
        chosen = [*chosen, one] if loss([*chosen, one]) <= loss(chosen) else chosen
    soup = cook(PlainGPT2(), paths, tmp_path, GreedySoup())
    assert [member.path for member in soup.ingredients] == [paths[one] for one in chosen]
    assert soup.score.value == pytest.approx(loss(chosen), abs=1e-6)


def test_recipes_that_need_where_it_began_take_an_untrained_adapter(adapters, tmp_path: Path) -> None:
    (untrained,) = save_adapters(tmp_path, bert, [OF_BERT[0]], size=0.0)
    paths = [*adapters["bert"][:2], untrained]
    soup = cook(Plain(), paths[:2], tmp_path, WiseFT(), initialization=untrained)
    coefficients = [soup.mixture.coefficients.get(one, 0.0) for one in (*soup.candidates,)]
    rest = 1 - sum(coefficients)
    assert soup.score.value == pytest.approx(loss_of(average_in_peft(bert, paths, [*coefficients, rest])), abs=1e-6)

    stock = cook(Plain(), paths[:2], tmp_path, ModelStock(), initialization=untrained)
    saved = Plain.load_from_checkpoint(tmp_path / "soup.ckpt").model.state_dict()
    members = [average_in_peft(bert, [path], [1.0]).state_dict() for path in paths]
    for key in (key for key in saved if "query.weight" in key):
        a, b = (one[key] - members[2][key] for one in members[:2])
        cosine = max(0.0, float((a * b).sum() / (a.norm() * b.norm())))
        share = 2 * cosine / (1 + cosine)
        torch.testing.assert_close(saved[key].double(), members[2][key] + share * (a + b) / 2, rtol=0, atol=2e-7)
    assert stock.mixture.layers


@pytest.mark.parametrize("kind", [Plain, Wrapped])
def test_gradients_of_coefficients_are_those_of_the_loss(adapters, tmp_path: Path, kind: type[Plain]) -> None:
    found: list[tuple[float, float]] = []

    class Differences(Recipe):
        def cook(self, ingredients, evaluator):
            learner = evaluator.learner("val_loss", 64, 0.1, 0)
            for index in range(3):
                numbers = [0.5, 0.3, 0.4]
                gradient = learner.gradient(Mixture(dict(zip(ingredients, numbers, strict=True))), 0)
                losses = []
                for step in (-0.01, 0.01):
                    moved = [number + step * (place == index) for place, number in enumerate(numbers)]
                    losses.append(learner.gradient(Mixture(dict(zip(ingredients, moved, strict=True))), 0).loss)
                slope = sum(float(one[index]) for one in gradient.by_parameter.values())
                found.append((slope, (losses[1] - losses[0]) / 0.02))
            return Mixture.uniform(ingredients)

    cook(kind(), adapters["bert"], tmp_path, Differences())
    for slope, measured in found:
        assert slope == pytest.approx(measured, abs=1e-3)
    assert max(abs(slope) for slope, _ in found) > 0.02


def test_a_learned_soup_of_adapters(adapters, tmp_path: Path) -> None:
    soup = cook(Plain(), adapters["bert"], tmp_path, LearnedSoup(steps=6))
    coefficients = [soup.mixture.coefficients.get(one, 0.0) for one in soup.candidates]
    reference = average_in_peft(bert, adapters["bert"], coefficients)
    assert soup.score.value == pytest.approx(loss_of(reference), abs=1e-6)


def test_a_soup_keeps_its_adapter_when_it_is_saved_again(adapters, tmp_path: Path) -> None:
    soup = cook(Plain(), adapters["bert"], tmp_path, UniformSoup())
    Soup.load(tmp_path / "soup.ckpt").save(tmp_path / "again.ckpt")
    Soup.load(tmp_path / "again.ckpt").save_adapter(tmp_path / "summed")
    assert loss_of(PeftModel.from_pretrained(bert(), tmp_path / "summed")) == pytest.approx(soup.score.value, abs=1e-6)
    assert read_checkpoint(tmp_path / "soup.ckpt")["hyper_parameters"] == {"lr": 0.1}
