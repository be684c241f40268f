"""SoupTrainer.study: what every study gets, whatever it measures."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_soups import Ingredients, Interpolation, Mixture, SoupTrainer, Study, StudyResult
from lightning_soups.studies import Findings
from tests.helpers import Blobs, Classifier, blobs, record, trainer


class Shifted(Blobs):
    """Two test sets, the second one noisier."""

    def test_dataloader(self) -> list[DataLoader]:
        return [DataLoader(blobs(51, seed=3), batch_size=16), DataLoader(blobs(40, seed=4, noise=3.0), batch_size=16)]


class Named(Classifier):
    """Logs one metric per test set."""

    def test_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        logits = self(batch[0])
        accuracy = (logits.argmax(dim=1) == batch[1]).float().mean()
        self.log("test_acc", accuracy)
        self.log("test_loss", nn.functional.cross_entropy(logits, batch[1]))


class Ends(Study):
    """Measures every ingredient and their ensemble."""

    def choose(self, ingredients: Ingredients, evaluator: Any) -> list[Mixture]:
        return [Mixture.uniform([one]) for one in evaluator.rank(ingredients)]

    def measure(self, plan: list[Mixture], measurer: Any) -> Findings:
        rows = [{"model": one.members[0].run, **measurer.measure(one)} for one in plan]
        rows.append({"model": "ensemble", **measurer.ensemble(dict.fromkeys(plan, 1 / len(plan)))})
        return Findings(rows, ["Done."], {one.members[0].run: one for one in plan})

    def draw(self, result: StudyResult) -> Any:
        from lightning_soups.figures import panels

        with panels() as (figure, (axis,)):
            axis.bar([str(row["model"]) for row in result.rows], [row[result.datasets[0]] for row in result.rows])
        return figure


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("soups")
    record(directory, [0.1, 0.5, 1.0], make=Named)
    return directory


def reference(directory: Path, shifted: bool) -> dict[str, float]:
    """Accuracies on a test set by a plain loop: of each ingredient, and of their averaged logits."""
    inputs, labels = (blobs(40, seed=4, noise=3.0) if shifted else blobs(51, seed=3)).tensors
    logits = {}
    for ingredient in Ingredients.load(directory):
        model = Classifier.load_from_checkpoint(ingredient.path)
        with torch.no_grad():
            logits[ingredient.run] = model(inputs.to(model.device)).cpu()
    logits["ensemble"] = torch.stack(list(logits.values())).mean(dim=0)
    return {name: float((of.argmax(dim=1) == labels).double().mean()) for name, of in logits.items()}


def test_a_study_of_ones_own_from_the_data_to_the_files(recorded: Path, tmp_path: Path) -> None:
    module = Named()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    result = trainer(SoupTrainer).study(
        module,
        datamodule=Shifted(),
        study=Ends(),
        ingredients=recorded,
        names=["plain", "noisy"],
        output=tmp_path / "e",
    )
    assert (result.metric, result.mode, result.monitor) == ("test_acc", "max", "val_acc")
    assert (result.in_distribution, result.shifted) == (("plain",), ("noisy",))
    for dataset in ("plain", "noisy"):
        expected = reference(recorded, dataset == "noisy")
        assert {row["model"]: row[dataset] for row in result.rows} == pytest.approx(expected, abs=1e-6)
    assert StudyResult.load(tmp_path / "e.json") == result
    assert (tmp_path / "e.csv").read_text().splitlines()[0] == "model,plain,noisy"
    assert (tmp_path / "e.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "e.svg").read_text().count("<svg") == 1
    assert result.models["run-00"]["coefficients"] == {str(Ingredients.load(recorded)[0].path): 1.0}
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert "forward" not in vars(module)
    assert module.training


def test_two_processes_measure_what_one_does(recorded: Path, tmp_path: Path) -> None:
    arguments = {"datamodule": Shifted(), "ingredients": recorded}
    study = Interpolation(alphas=[0.0, 0.5, 1.0], ensemble=True)
    one = trainer(SoupTrainer).study(Named(), study=study, output=tmp_path / "one", **arguments)
    two = trainer(SoupTrainer, devices=2, strategy="ddp_spawn").study(
        Named(), study=study, output=tmp_path / "two", **arguments
    )
    assert StudyResult.load(tmp_path / "two.json") == two
    assert [row["model"] for row in two.rows] == [row["model"] for row in one.rows] == ["weights"] * 3 + ["outputs"] * 3
    for ours, theirs in zip(two.rows, one.rows, strict=True):
        for column in (*one.datasets, "mean in-distribution", "mean shifted"):
            assert ours[column] == pytest.approx(theirs[column], rel=1e-6)


def test_dataloaders_instead_of_a_datamodule(recorded: Path, tmp_path: Path) -> None:
    data = Shifted()
    arguments = {"study": Ends(), "ingredients": recorded, "output": tmp_path / "s"}
    expected = trainer(SoupTrainer).study(Named(), datamodule=data, **arguments)
    for result in (
        trainer(SoupTrainer).study(
            Named(), data.val_dataloader(), test_dataloaders=data.test_dataloader(), **arguments
        ),
        trainer(SoupTrainer).study(Named(), data, **arguments),
    ):
        assert result.rows == expected.rows
    with pytest.raises(MisconfigurationException, match=r"a larger 'test_loss' is better is not known.*`metric_mode`"):
        trainer(SoupTrainer).study(Named(), datamodule=data, metric="test_loss", **arguments)
    only = trainer(SoupTrainer).study(
        Named(),
        datamodule=data,
        test_dataloaders=data.test_dataloader()[1],
        metric="test_loss",
        metric_mode="min",
        **arguments,
    )
    assert (only.datasets, only.metric, only.mode) == (("test",), "test_loss", "min")


class Without(LightningDataModule):
    def val_dataloader(self) -> DataLoader:
        return Blobs().val_dataloader()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"study": "Ends"}, r"`study` must be a Study such as Interpolation\(\), got 'Ends'"),
        ({"in_distribution": ["plain"]}, r"names no test dataset: \['plain'\]. There are: \['test 0', 'test 1'\]"),
        ({"outputs_of": "head"}, r"must name a submodule of Named, got 'head'. There are: \['net'"),
        ({"outputs_of": "val_acc"}, "outputs of the submodule 'val_acc', but test_step never called it"),
        ({"metric": "f1"}, "'f1' was not logged in test_step"),
        ({"datamodule": Without()}, r"test_dataloader"),
    ],
)
def test_what_cannot_work_is_refused_with_a_reason(
    recorded: Path, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    module = Named()
    defaults = {"datamodule": Shifted(), "study": Ends(), "ingredients": recorded, "output": tmp_path / "s"}
    with pytest.raises(MisconfigurationException, match=message):
        trainer(SoupTrainer).study(module, **{**defaults, **arguments})
    assert "forward" not in vars(module)
    assert "log" not in vars(module)
    assert {path.name for path in tmp_path.iterdir()} <= {".s.journal"}, "what it chose by, for another try"


def test_without_matplotlib_there_is_a_table_and_a_warning(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lightning_soups.figures", None)
    with pytest.warns(UserWarning, match=r"No figure was drawn.*lightning-soups\[report\]"):
        trainer(SoupTrainer).study(
            Named(), datamodule=Shifted(), study=Ends(), ingredients=recorded, output=tmp_path / "s"
        )
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".csv", ".json"]


def test_results_that_cannot_be_read(tmp_path: Path) -> None:
    for content in ("{", "[]", '{"format": 99}', '{"format": 1, "mode": "max"}'):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(ValueError, match="is not the result of a study"):
            StudyResult.load(tmp_path / "x.json")
