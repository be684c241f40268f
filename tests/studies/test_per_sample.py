"""The metric of each sample, against the outputs of plain PyTorch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from torchmetrics.classification import MulticlassF1Score

from lightning_soups import Ingredients, Mixture, Study
from lightning_soups.evaluation.replay_measurer import ReplayMeasurer
from lightning_soups.studies import Findings
from tests.helpers import CLASSES, record
from tests.studies.plain import (
    NAMES,
    ManyTests,
    PlainNumbers,
    Shifted,
    dataset,
    logits,
    losses,
    right,
    weights,
)
from tests.studies.plain import study as run


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("soups")
    record(directory, [0.1, 0.3, 0.6])
    return directory


class EachSample(Study):
    """The values of the first ingredient and of an ensemble of the first two, weighted 3 to 1."""

    def choose(self, ingredients: Ingredients, evaluator: Any) -> list[Mixture]:
        evaluator.score(Mixture.uniform(ingredients[:1]))
        return [Mixture.uniform([one]) for one in ingredients]

    def measure(self, plan: list[Mixture], measurer: Any) -> Findings:
        models = {"single": plan[0], "ensemble": {plan[0]: 0.75, plan[1]: 0.25}, "last": plan[2]}
        values = {name: measurer.per_sample(model) for name, model in models.items()}
        plain = {k: {name: v if v is None else v.tolist() for name, v in own.items()} for k, own in values.items()}
        again = [measurer.measure(plan[0]), measurer.ensemble(models["ensemble"])]
        return Findings([{"row": 1}], [], details={"values": plain, "again": again})

    def draw(self, result: Any) -> Any:
        from lightning_soups.figures import panels

        with panels() as (figure, _):
            return figure


def assert_right(found: dict[str, Any], directory: Path, judge: Any) -> None:
    first, second, third = weights(Ingredients.load(directory))
    for name in NAMES:
        outputs = {
            "single": logits(first, name),
            "ensemble": 0.75 * logits(first, name) + 0.25 * logits(second, name),
            "last": logits(third, name),
        }
        for model, own in outputs.items():
            assert found["values"][model][name] == pytest.approx(judge(own, name).tolist(), abs=1e-5), (model, name)
        for again, model in zip(found["again"], ("single", "ensemble"), strict=True):
            assert again[name] == pytest.approx(float(judge(outputs[model], name).mean()), abs=1e-6)


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether passes in batches of one sample had to be made, for each model that was asked for."""
    made: list[bool] = []
    original = ReplayMeasurer._measure_one_by_one
    monkeypatch.setattr(
        ReplayMeasurer, "_measure_one_by_one", lambda self, *a: made.append(original(self, *a)) or made[-1]
    )
    return made


def test_a_metric_is_seen_in_passing(recorded: Path, tmp_path: Path, one_by_one: list[bool]) -> None:
    assert_right(run(EachSample(), recorded, tmp_path).details, recorded, right)
    assert one_by_one == []


@pytest.mark.parametrize(("metric", "mode", "judge"), [("test_acc", "max", right), ("test_loss", "min", losses)])
@pytest.mark.parametrize("cache_batches", ["auto", "off"])
def test_a_plain_number_is_measured_one_by_one(recorded, tmp_path, one_by_one, metric, mode, judge, cache_batches):
    reported = {"metric": metric, "metric_mode": mode, "cache_batches": cache_batches}
    assert_right(run(EachSample(), recorded, tmp_path, PlainNumbers(), **reported).details, recorded, judge)
    assert one_by_one == [True, True, True]


def test_a_loss_is_seen_in_passing_beside_a_metric(recorded: Path, tmp_path: Path, one_by_one: list[bool]) -> None:
    class Both(ManyTests):
        def test_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
            super().test_step(batch, batch_idx, dataloader_idx)
            loss = torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
            self.log(f"test_loss/{NAMES[dataloader_idx]}", loss, add_dataloader_idx=False)

    found = run(EachSample(), recorded, tmp_path, Both(), metric="test_loss", metric_mode="min", outputs_of="net")
    assert_right(found.details, recorded, losses)
    assert one_by_one == []


@pytest.mark.parametrize(("halves", "passes"), [(NAMES, 1), (NAMES[1:], 0)])
def test_an_error_of_one_half_is_not_taken_for_accuracy(recorded, tmp_path, one_by_one, halves, passes) -> None:
    """Unless another dataset or a model before it tells, single samples do."""
    first, _, third = weights(Ingredients.load(recorded))
    chosen = {}
    for name in NAMES:
        correct = right(logits(first, name), name)
        own = [(correct == kind).nonzero().flatten().tolist() for kind in (0, 1)]
        chosen[name] = [i for kind in own for i in (kind[: min(map(len, own))] if name in halves else kind)]

    class Halves(Shifted):
        def test_dataloader(self) -> list[DataLoader]:
            return [DataLoader(Subset(dataset(name), chosen[name]), batch_size=16) for name in NAMES]

    class Errors(ManyTests):
        def test_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
            super().test_step(batch, batch_idx, dataloader_idx)
            wrong = (self(batch[0]).argmax(dim=1) != batch[1]).float().mean()
            self.log(f"test_error/{NAMES[dataloader_idx]}", wrong, add_dataloader_idx=False)

    how = {"metric": "test_error", "metric_mode": "min", "outputs_of": "net"}
    found = run(EachSample(), recorded, tmp_path, Errors(), datamodule=Halves(), **how).details["values"]
    for name in NAMES:
        for model, state in (("single", first), ("last", third)):
            expected = 1 - right(logits(state, name), name)[chosen[name]]
            assert found[model][name] == pytest.approx(expected.tolist(), abs=1e-6), (model, name)
    assert len(one_by_one) == passes


def test_outputs_that_cannot_be_cut_into_samples_are_recorded_again(recorded: Path, tmp_path: Path) -> None:
    class TwoCalls(PlainNumbers):
        """Calls ``forward`` twice in a step."""

        def test_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
            self(batch[0][:1])
            super().test_step(batch, batch_idx, dataloader_idx)

    assert_right(run(EachSample(), recorded, tmp_path, TwoCalls()).details, recorded, right)


def test_what_is_no_mean_over_samples_has_no_values(recorded: Path, tmp_path: Path) -> None:
    class MacroF1(ManyTests):
        def __init__(self) -> None:
            super().__init__()
            self.accuracies = torch.nn.ModuleList(MulticlassF1Score(CLASSES, average="macro") for _ in NAMES)

    found = run(EachSample(), recorded, tmp_path, MacroF1()).details["values"]
    assert all(own == dict.fromkeys(NAMES) for own in found.values())


class AtTheEnd(ManyTests):
    """Logs at the end of the epoch, where Lightning does not know which dataloader a value is of."""

    def test_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.accuracies[dataloader_idx].update(self(batch[0]), batch[1])

    def on_test_epoch_end(self) -> None:
        for name, metric in zip(NAMES, self.accuracies, strict=True):
            self.log(f"test_acc/{name}", metric.compute())
            metric.reset()


def test_what_is_logged_at_the_end_has_values_where_names_tell_dataloaders(recorded: Path, tmp_path: Path) -> None:
    assert_right(run(EachSample(), recorded, tmp_path / "a", AtTheEnd(), names=NAMES).details, recorded, right)
    found = run(EachSample(), recorded, tmp_path / "b", AtTheEnd())
    assert found.datasets == tuple(sorted(NAMES))
    assert all(own == dict.fromkeys(NAMES) for own in found.details["values"].values())
    first = weights(Ingredients.load(recorded))[0]
    for name in NAMES:
        assert found.details["again"][0][name] == pytest.approx(float(right(logits(first, name), name).mean()))


def test_a_step_that_takes_no_single_samples_has_no_values(recorded: Path, tmp_path: Path) -> None:
    class NeedsMore(PlainNumbers):
        def test_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
            assert len(batch[0]) > 1
            super().test_step(batch, batch_idx, dataloader_idx)

    found = run(EachSample(), recorded, tmp_path, NeedsMore()).details
    assert all(own == dict.fromkeys(NAMES) for own in found["values"].values())
    first = weights(Ingredients.load(recorded))[0]
    for name in NAMES:  # what comes after the error is whole again
        assert found["again"][0][name] == pytest.approx(float(right(logits(first, name), name).mean()))


class Shuffled(Shifted):
    def test_dataloader(self) -> list[DataLoader]:
        return [DataLoader(dataset(name), batch_size=16, shuffle=True) for name in NAMES]


def test_shuffled_test_data_are_compared_in_the_order_that_was_kept(recorded: Path, tmp_path: Path) -> None:
    found = run(EachSample(), recorded, tmp_path, datamodule=Shuffled()).details["values"]
    first, second, _ = weights(Ingredients.load(recorded))
    for name in NAMES:
        single, ensemble = (torch.tensor(found[model][name]) for model in ("single", "ensemble"))
        outputs = logits(first, name), 0.75 * logits(first, name) + 0.25 * logits(second, name)
        expected = [right(own, name).tolist() for own in outputs]
        assert sorted(zip(single.tolist(), ensemble.tolist(), strict=True)) == sorted(zip(*expected, strict=True))


def test_an_ensemble_over_other_batches_in_every_pass_is_refused(recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"averages what its members put out.*shuffle=False"):
        run(EachSample(), recorded, tmp_path, datamodule=Shuffled(), cache_batches="off")


class SomeMetrics(ManyTests):
    """Logs a metric for the first two test datasets, a plain number for the last."""

    def test_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        if dataloader_idx < 2:
            super().test_step(batch, batch_idx, dataloader_idx)
        else:
            PlainNumbers.test_step(self, batch, batch_idx, dataloader_idx)


def test_two_processes_have_the_values_of_one(recorded: Path, tmp_path: Path) -> None:
    two = {"devices": 2, "strategy": "ddp_spawn"}
    one, both = (
        run(EachSample(), recorded, tmp_path / str(number), SomeMetrics(), trainer=how).details
        for number, how in enumerate([{}, two])
    )
    for model, own in one["values"].items():
        for name, values in own.items():
            in_order_of_processes = [*values[::2], *values[1::2]]
            assert both["values"][model][name] == pytest.approx(in_order_of_processes, abs=1e-6)
