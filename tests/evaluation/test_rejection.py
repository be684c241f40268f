"""When candidates are rejected early, how much that saves, and when it must not happen."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import torchmetrics
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy, MulticlassF1Score

from lightning_soups import Ingredients, Soup, SoupTrainer
from lightning_soups.evaluation.order import Difficulty, Outcomes, outcomes_of
from tests.helpers import CLASSES, Blobs, Classifier, blobs, record, trainer

LRS = [0.6, 0.5, 0.7, 0.4, 0.8, 0.3, 0.01, 0.001]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("soups")
    record(directory, LRS, datamodule=Easy())
    return directory


class Easy(Blobs):
    """400 held-out samples, few of them hard."""

    def val_dataloader(self) -> DataLoader:
        return DataLoader(blobs(400, seed=2, noise=0.8), batch_size=self.batch_size)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(blobs(200, seed=1, noise=0.8), batch_size=self.batch_size, shuffle=True)


def cook(recorded: Path, tmp_path: Path, module: Any = None, *, data: Any = None, **kwargs) -> Soup:
    callbacks = kwargs.pop("callbacks", [])
    options = {"ingredients": recorded, "output": tmp_path / "s.ckpt", **kwargs}
    return trainer(SoupTrainer, callbacks=callbacks).cook(
        module or Classifier(), Easy() if data is None else data, **options
    )


def early(soup: Soup) -> list[int]:
    return [row.samples for row in soup.trace if row.early]


def test_a_rejected_candidate_costs_little_more_than_the_incumbents_errors(recorded: Path, tmp_path: Path) -> None:
    soup = cook(recorded, tmp_path)
    full = cook(recorded, tmp_path, early_rejection=False)
    assert soup.mixture == full.mixture
    assert soup.metrics == full.metrics
    rejected = [row for row in soup.trace if row.accepted is False]
    assert len(rejected) >= 3
    assert all(row.early for row in rejected)
    errors = 400 * (1 - soup.score.value)
    assert max(early(soup)) <= 1.5 * errors + 32
    for row in rejected:
        assert row.score < soup.score
        assert row.score.value >= {one.mixture: one.score.value for one in full.trace}[row.mixture] - 1e-6


@pytest.mark.parametrize("placement", ["auto", "off"])
def test_ragged_batches_go_through_the_loaders_own_collate(recorded, tmp_path: Path, placement: str) -> None:
    def collate(items: list) -> dict:
        return {"x": torch.stack([x for x, _ in items]), "y": [int(y) for _, y in items]}

    class Listing(Classifier):
        def validation_step(self, batch: dict, batch_idx: int) -> None:
            assert isinstance(batch["y"], list)
            super().validation_step([batch["x"], torch.tensor(batch["y"])], batch_idx)

    loader = DataLoader(blobs(400, seed=2, noise=0.8), batch_size=32, collate_fn=collate)
    soup = cook(recorded, tmp_path, Listing(), data=loader, cache_batches=placement)
    assert soup.mixture == cook(recorded, tmp_path).mixture
    assert early(soup)
    assert max(early(soup)) < 200


def test_a_loss_ends_passes_in_the_loaders_order(recorded: Path, tmp_path: Path) -> None:
    soup = cook(recorded, tmp_path, monitor="val_loss", mode="min")
    full = cook(recorded, tmp_path, monitor="val_loss", mode="min", early_rejection=False)
    assert soup.mixture == full.mixture
    assert soup.score == full.score
    assert early(soup)
    assert all(samples % 32 == 0 for samples in early(soup)), "whole batches of the loader"
    assert sum(row.samples for row in soup.trace) < sum(row.samples for row in full.trace)


class Negative(LightningModule):
    """One weight w; logs 1 + |w|, but near w = -6 values that fall below zero in the last batch."""

    def __init__(self, first: float, others: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))
        self.values = [first] + [others] * 11 + [-1000.0]

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("tricky", self.values[batch_idx] if abs(self.w + 6) < 1 else 1 + self.w.abs().squeeze())


@pytest.mark.parametrize("values", [(0.5, 0.5), (-0.1, 5.0)], ids=["in the last batch", "in the first"])
def test_what_a_bound_decided_is_taken_back_when_it_breaks(tmp_path: Path, values: tuple[float, float]) -> None:
    for name, weight in {"a": 0.0, "b": 10.0, "c": -12.0}.items():
        torch.save({"state_dict": {"w": torch.tensor([weight])}}, tmp_path / f"{name}.ckpt")
    paths = [tmp_path / f"{name}.ckpt" for name in "abc"]
    options = {"monitor": "tricky", "mode": "min", "ingredients": paths}
    full = cook(tmp_path, tmp_path, Negative(*values), early_rejection=False, **options)
    with pytest.warns(UserWarning, match="never negative until then.*started again"):
        soup = cook(tmp_path, tmp_path, Negative(*values), **options)
    assert soup.mixture == full.mixture
    assert soup.score == full.score
    assert not early(soup)
    assert len(soup.caveats) == 1
    answers = [row.samples for row in soup.trace if not row.cached]
    assert len(answers) == 5, "full answers were kept: three singles, a with c, then a with b"


def test_data_that_change_later_take_rejections_back(recorded: Path, tmp_path: Path) -> None:
    class Drifting(IterableDataset):
        """400 samples, but 200 of them from the sixth pass on."""

        passes = 0

        def __iter__(self):
            Drifting.passes += 1
            return itertools.islice(blobs(400, seed=2, noise=0.8), 200 if Drifting.passes > 5 else 400)

    loader = DataLoader(Drifting(), batch_size=32)
    with pytest.warns(UserWarning, match="the held-out data were other ones in a later pass.*started again"):
        soup = cook(recorded, tmp_path, data=loader, cache_batches="off")
    assert not early(soup)
    assert len(soup.caveats) == 1


class Broken(Classifier):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.collection = MetricCollection(
            {"acc": MulticlassAccuracy(CLASSES, average="micro"), "f1": MulticlassF1Score(CLASSES, average="micro")}
        )

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        logits = self(batch[0])
        if self.kind == "depends on the batch":
            logits = logits - logits.mean(dim=0)
        if self.kind == "changes with every call":
            logits = logits + 0.5 * torch.randn_like(logits)
        self.val_acc.update(logits, batch[1])
        if self.kind == "logs at the end":
            return
        if self.kind == "several metrics":
            self.collection.update(logits, batch[1])
            self.log_dict(self.collection)
        self.log("val_acc", self.val_acc)

    def on_validation_epoch_end(self) -> None:
        if self.kind == "logs at the end":
            self.log("val_acc", self.val_acc)


@pytest.mark.parametrize("kind", ["depends on the batch", "changes with every call"])
def test_no_probes_when_other_batches_give_other_outputs(recorded: Path, tmp_path: Path, kind: str) -> None:
    soup = cook(recorded, tmp_path, Broken(kind))
    full = cook(recorded, tmp_path, Broken(kind), early_rejection=False)
    if kind == "depends on the batch":
        assert soup.mixture == full.mixture
    assert early(soup)
    assert all(samples % 32 == 0 or samples == 400 for samples in early(soup)), "only the loader's own batches"


@pytest.mark.parametrize("monitor", ["acc", "f1", "val_acc"])
def test_collections_that_share_their_state(recorded: Path, tmp_path: Path, monitor: str) -> None:
    module = Broken("several metrics")
    soup = cook(recorded, tmp_path, module, monitor=monitor, mode="max")
    full = cook(recorded, tmp_path, module, monitor=monitor, mode="max", early_rejection=False)
    assert soup.mixture == full.mixture
    assert soup.metrics == full.metrics
    assert early(soup)


def test_a_metric_logged_at_the_end_of_the_epoch(recorded: Path, tmp_path: Path) -> None:
    soup = cook(recorded, tmp_path, Broken("logs at the end"))
    assert soup.mixture == cook(recorded, tmp_path).mixture
    assert early(soup)
    assert max(early(soup)) < 100


class Twice(Classifier):
    """One metric for two dataloaders, so the second value is of both."""

    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.val_acc(self(batch[0]), batch[1])
        self.log("val_acc", self.val_acc)


@pytest.mark.parametrize("index", [0, 1])
def test_a_metric_of_two_dataloaders(recorded: Path, tmp_path: Path, index: int) -> None:
    loaders = [Easy().val_dataloader(), Blobs().val_dataloader()]
    options = {"monitor": f"val_acc/dataloader_idx_{index}", "mode": "max", "data": loaders}
    soup = cook(recorded, tmp_path, Twice(), **options)
    full = cook(recorded, tmp_path, Twice(), early_rejection=False, **options)
    assert soup.mixture == full.mixture
    assert soup.metrics == full.metrics


def test_the_other_direction_has_no_bound(recorded: Path, tmp_path: Path) -> None:
    soup = cook(recorded, tmp_path, monitor="val_acc", mode="min")
    assert not early(soup)
    assert soup.mixture == cook(recorded, tmp_path, monitor="val_acc", mode="min", early_rejection=False).mixture


def test_passes_that_end_early_leave_no_trace(recorded: Path, tmp_path: Path) -> None:
    """No logs, no hooks that would get a part of the data, nothing left in what steps and callbacks collect."""
    logged: list[float] = []
    ended: list[int] = []

    class Collecting(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.outputs: dict[str, list[int]] = {"rows": []}
            self.batches = 0

        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            super().validation_step(batch, batch_idx)
            self.outputs["rows"].append(len(batch[0]))
            self.batches += 1

        def on_validation_epoch_end(self) -> None:
            ended.append(sum(self.outputs["rows"]))
            assert self.batches == 13
            self.outputs["rows"].clear()
            self.batches = 0

    class Recorder(Callback):
        def __init__(self) -> None:
            self.seen: list[int] = []

        def setup(self, trainer, pl_module, stage: str) -> None:
            trainer._logger_connector.log_metrics = lambda metrics, step=None: (
                logged.append(metrics["val_acc"].item()) if "val_acc" in metrics else None
            )

        def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
            self.seen.append(batch_idx)

        def on_validation_end(self, trainer, pl_module) -> None:
            assert self.seen == list(range(13))
            self.seen.clear()

    soup = cook(recorded, tmp_path, Collecting(), callbacks=[Recorder()])
    full = [row.score.value for row in soup.trace if not row.cached and not row.early]
    assert early(soup)
    assert logged == pytest.approx(full)
    assert ended == [400] * len(full)


class Picky(Classifier):
    """Its step takes batches of 32 samples only, but for the last."""

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        assert len(batch[0]) == (32 if batch_idx < 12 else 16)
        super().validation_step(batch, batch_idx)


def test_a_step_that_takes_no_other_batches_gets_none(recorded: Path, tmp_path: Path) -> None:
    soup = cook(recorded, tmp_path, Picky())
    assert soup.mixture == cook(recorded, tmp_path).mixture
    assert early(soup)
    assert all(samples % 32 == 0 for samples in early(soup))


class Binary(Classifier):
    """Torchmetrics takes its outputs for logits when one of the batch is outside of [0, 1]."""

    def __init__(self, probabilities: bool) -> None:
        super().__init__()
        self.probabilities = probabilities
        self.binary = BinaryAccuracy()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        score = self(batch[0])[:, 0] - self(batch[0])[:, 1]
        self.binary(score.sigmoid() if self.probabilities else 0.3 * score, (batch[1] == 0).long())
        self.log("binary", self.binary)


@pytest.mark.parametrize("probabilities", [True, False])
def test_binary_scores_that_may_be_logits(recorded: Path, tmp_path: Path, probabilities: bool) -> None:
    soup = cook(recorded, tmp_path, Binary(probabilities), monitor="binary", mode="max")
    full = cook(recorded, tmp_path, Binary(probabilities), monitor="binary", mode="max", early_rejection=False)
    assert soup.mixture == full.mixture
    assert soup.metrics == full.metrics
    if not probabilities:
        assert all(samples % 32 == 0 for samples in early(soup)), "only the loader's own batches"


def test_probes_that_save_nothing_are_given_up(recorded: Path, tmp_path: Path) -> None:
    """All but copies of one checkpoint: every candidate ties, so it is kept, and every probe was in vain."""
    source = Ingredients.load(recorded)[0].path
    for number, name in enumerate("abcdefghijkl"):
        checkpoint = torch.load(source, weights_only=True)
        last = list(checkpoint["state_dict"])[-1]
        checkpoint["state_dict"][last] += number * 1e-6  # of all logits alike
        torch.save(checkpoint, tmp_path / f"{name}.ckpt")
    options = {"ingredients": str(tmp_path / "*.ckpt"), "monitor": "val_acc"}
    soup = cook(recorded, tmp_path, **options)
    assert len(soup.mixture) == 12
    spent = sum(row.samples - 400 for row in soup.trace if not row.cached)
    assert 32 < spent <= 200 + 100 + 32


def test_a_step_that_changes_the_module_starts_over(recorded: Path, tmp_path: Path) -> None:
    class Wearing(Classifier):
        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            super().validation_step(batch, batch_idx)
            with torch.no_grad():
                self.net[0].weight.mul_(0.9)

    soup = cook(recorded, tmp_path, Wearing())
    full = cook(recorded, tmp_path, Wearing(), early_rejection=False)
    assert soup.mixture == full.mixture
    assert soup.metrics == full.metrics


@pytest.mark.parametrize(
    ("preds", "target", "wrong"),
    [
        (torch.eye(3), torch.tensor([0, 1, 1]), [0, 0, 1]),
        (torch.tensor([0, 1, 2]), torch.tensor([0, 2, 2]), [0, 1, 0]),
        (torch.tensor([0.2, 0.9]), torch.tensor([1, 1]), [1, 0]),
        (torch.tensor([-3.0, 4.0]), torch.tensor([0, 0]), [0, 1]),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.5, 2.0]), [0.5, 0]),
        (torch.eye(2).unsqueeze(2).repeat(1, 1, 2), torch.tensor([[0, 1], [1, 1]]), [0.5, 0]),
    ],
)
def test_outcomes_of_each_sample(preds: Tensor, target: Tensor, wrong: list[float]) -> None:
    outcomes = outcomes_of(preds, target)
    assert outcomes is not None
    assert outcomes.wrong.tolist() == wrong
    assert outcomes.loss.argmax() == outcomes.wrong.argmax()


@pytest.mark.parametrize(
    ("preds", "target"),
    [
        (None, None),
        (torch.ones(3), torch.ones(2)),
        (torch.ones(2, 3), torch.ones(2, 4)),
        (torch.tensor(1.0), torch.tensor(1)),
    ],
)
def test_what_has_no_outcomes(preds: Any, target: Any) -> None:
    assert outcomes_of(preds, target) is None


def test_hardest_first() -> None:
    difficulty = Difficulty(Outcomes(torch.tensor([0, 1, 0, 0, 0.0]), torch.tensor([0.1, 2, 0.3, 0.2, 0.0])))
    everything = torch.arange(5)
    assert difficulty.hardest_first(everything).tolist() == [1, 2, 3, 0, 4]
    difficulty.note(torch.tensor([4, 0]), Outcomes(torch.tensor([1.0, 0]), torch.zeros(2)))
    assert difficulty.hardest_first(everything).tolist() == [1, 4, 2, 3, 0]
    difficulty.set_incumbent(Outcomes(torch.tensor([0, 0, 0, 1.0, 0]), torch.zeros(5)))
    assert difficulty.hardest_first(torch.tensor([0, 1, 3])).tolist() == [3, 1, 0]


def test_mean_errors_are_probed(recorded: Path, tmp_path: Path) -> None:
    class Regression(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.mse = torchmetrics.MeanSquaredError()

        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self.mse(self(batch[0]).softmax(dim=1)[:, 0], (batch[1] == 0).float())
            self.log("mse", self.mse)

    soup = cook(recorded, tmp_path, Regression(), monitor="mse")
    full = cook(recorded, tmp_path, Regression(), monitor="mse", early_rejection=False)
    assert soup.mixture == full.mixture
    assert soup.score == full.score
    assert early(soup)
