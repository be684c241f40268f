"""Lightning checkpoints of modules with a PeftModel, whole and of trained tensors only, from runs that really train."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import Strategy
from peft import PeftModel
from torch import Tensor, nn

from lightning_soups import GreedySoup, Ingredients, Mixture, SoupTrainer, Study, UniformSoup, WiseFT
from lightning_soups.mixing import Mixer
from lightning_soups.studies import Findings, StudyResult
from lightning_soups.weights import read_checkpoint
from tests.adapters.tiny import Filtered, Plain, Tokens, Wrapped, bert, held_out, loss_of, merged_by_peft, tokens
from tests.helpers import record, trainer

LRS = [0.03, 0.1, 0.2]


@pytest.fixture(scope="module", params=[Wrapped, Filtered])
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[type[Plain], Path]:
    directory = tmp_path_factory.mktemp(request.param.__name__)
    record(directory, LRS, request.param, "val_loss", Tokens(), "min")
    return request.param, directory


def members(kind: type[Plain], paths: list[Path]) -> list[dict[str, Tensor]]:
    """Each run's model, merged by peft in float64."""
    return [merged_by_peft(kind.load_from_checkpoint(path).model) for path in paths]


def averaged(state_dicts: list[dict[str, Tensor]]) -> nn.Module:
    model = bert().double()
    model.load_state_dict({key: sum(one[key] for one in state_dicts) / len(state_dicts) for key in state_dicts[0]})
    return model


def cook(kind: type[Plain], directory: Any, output: Path, **kwargs: Any) -> Any:
    given = {"monitor": "val_loss", "mode": "min", **kwargs}
    return trainer(SoupTrainer).cook(kind(), datamodule=Tokens(), ingredients=directory, output=output, **given)


def test_a_greedy_soup_of_runs(recorded: tuple[type[Plain], Path], tmp_path: Path) -> None:
    kind, directory = recorded
    found = Ingredients.load(directory)
    has_base = any("base_layer" in name for name in read_checkpoint(found[0].path)["state_dict"])
    assert has_base == (kind is Wrapped)
    models = members(kind, [one.path for one in found])

    def loss(chosen: list[int]) -> float:
        return loss_of(averaged([models[one] for one in chosen]))

    order = sorted(range(3), key=lambda one: loss([one]))
    chosen = order[:1]
    for one in order[1:]:
        chosen = [*chosen, one] if loss([*chosen, one]) <= loss(chosen) else chosen
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*factors.*")
        soup = cook(kind, directory, tmp_path / "soup.ckpt", recipe=GreedySoup())
    assert [member.path for member in soup.ingredients] == [found[one].path for one in chosen]
    assert soup.score.value == pytest.approx(loss(chosen), abs=1e-6)


def test_a_uniform_soup_is_the_average_of_the_merged_models(recorded: tuple[type[Plain], Path], tmp_path: Path) -> None:
    kind, directory = recorded
    soup = cook(kind, directory, tmp_path / "soup.ckpt", recipe=UniformSoup())
    models = members(kind, [one.path for one in Ingredients.load(directory)])
    reference = averaged(models)
    assert soup.score.value == pytest.approx(loss_of(reference), abs=1e-6)

    merged = merged_by_peft(kind.load_from_checkpoint(tmp_path / "soup.ckpt").model)
    for key, value in reference.state_dict().items():
        torch.testing.assert_close(merged[key], value, rtol=0, atol=2e-7)
    apart = Mixer().mix(soup.mixture)["state_dict"]
    module = kind()
    module.load_state_dict(apart, strict=False)
    key = "bert.encoder.layer.1.intermediate.dense.weight"
    wrong = merged_by_peft(module.model)[key]
    assert (wrong - reference.state_dict()[key]).abs().max() > 1e-3, "the mean of the factors would be another model"

    soup.save_adapter(tmp_path / "summed")
    wrapped = PeftModel.from_pretrained(bert(), tmp_path / "summed")
    ids, _ = held_out()
    with torch.no_grad():
        torch.testing.assert_close(
            wrapped(input_ids=ids).logits.double(), reference(input_ids=ids).logits, atol=1e-5, rtol=0
        )


def test_factors_are_averaged_on_request_with_a_warning(recorded: tuple[type[Plain], Path], tmp_path: Path) -> None:
    kind, directory = recorded
    with pytest.warns(UserWarning, match="a mean of products B A is not the product of the means"):
        soup = cook(kind, directory, tmp_path / "soup.ckpt", recipe=UniformSoup(), adapters="factors")
    saved = read_checkpoint(tmp_path / "soup.ckpt")["state_dict"]
    states = [read_checkpoint(one.path)["state_dict"] for one in soup.ingredients]
    for key, value in saved.items():
        torch.testing.assert_close(value.double(), sum(one[key].double() for one in states) / 3, rtol=0, atol=1e-7)
    with pytest.raises(ValueError, match=r"cannot be written as an adapter: .* adapters='updates'"):
        soup.save_adapter(tmp_path / "summed")


def test_the_recorded_initialization_is_a_member_without_updates(
    recorded: tuple[type[Plain], Path], tmp_path: Path
) -> None:
    kind, directory = recorded
    found = Ingredients.load(directory)
    soup = cook(kind, directory, tmp_path / "soup.ckpt", recipe=WiseFT())
    (start,) = members(kind, [found.initialization.path])
    models = dict(zip(found, members(kind, [one.path for one in found]), strict=True))
    coefficients = {one: value for one, value in soup.mixture.coefficients.items() if one in models}
    model = bert().double()
    rest = 1 - sum(coefficients.values())
    model.load_state_dict(
        {key: rest * start[key] + sum(c * models[one][key] for one, c in coefficients.items()) for key in start}
    )
    assert soup.score.value == pytest.approx(loss_of(model), abs=1e-6)


def test_only_the_first_mixture_is_loaded(
    recorded: tuple[type[Plain], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, directory = recorded
    loads: list[int] = []
    original = Strategy.load_model_state_dict

    def counting(self: Strategy, checkpoint: dict[str, Any], strict: bool = True) -> None:
        loads.append(len(checkpoint["state_dict"]))
        original(self, checkpoint, strict)

    monkeypatch.setattr(Strategy, "load_model_state_dict", counting)
    cook(kind, directory, tmp_path / "soup.ckpt", recipe=GreedySoup())
    assert len(loads) == 1


class Measuring(Study):
    """Scores the uniform soup on held-out data, then measures each ingredient on test data."""

    def choose(self, ingredients: Ingredients, evaluator: Any) -> list[Mixture]:
        evaluator.score(Mixture.uniform(ingredients))
        return [Mixture.uniform([one]) for one in ingredients]

    def measure(self, plan: list[Mixture], measurer: Any) -> Findings:
        return Findings([{"model": one.members[0].run, **measurer.measure(one)} for one in plan], ["Done."])

    def draw(self, result: StudyResult) -> Any:
        from lightning_soups.figures import panels

        with panels() as (figure, _):
            return figure


def test_a_study_measures_on_the_base_that_the_module_came_with(
    recorded: tuple[type[Plain], Path], tmp_path: Path
) -> None:
    kind, directory = recorded
    given = {"ingredients": directory, "monitor": "val_loss", "mode": "min", "metric_mode": "min"}
    study = trainer(SoupTrainer).study(
        kind(), datamodule=Tokens(), study=Measuring(), output=tmp_path / "found", **given
    )
    ids, labels = tokens(30, seed=3).tensors
    for row, model in zip(study.rows, members(kind, [one.path for one in Ingredients.load(directory)]), strict=True):
        (measured,) = (value for key, value in row.items() if key != "model")
        assert measured == pytest.approx(loss_of(averaged([model]), (ids, labels)), abs=1e-6)
