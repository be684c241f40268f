"""What is logged of a recipe, and that a logger cannot spoil it."""

import csv
import itertools
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_soups import GreedySoup, LearnedSoup, Soup, SoupTrainer, UniformSoup
from lightning_soups.loggers.curve import draw_curve
from lightning_soups.score import Score
from lightning_soups.trace import Question, leading
from tests.helpers import Blobs, Classifier, trainer


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def filled(row: dict[str, str]) -> dict[str, float]:
    return {key: float(value) for key, value in row.items() if value}


def expected_rows(soup: Soup, name: str) -> list[dict[str, float]]:
    """The curves of a greedy soup whose scores are to be maximized, from its trace."""
    samples = itertools.accumulate(row.samples for row in soup.trace)
    scores = [float("-inf") if row.early else row.score.value for row in soup.trace]
    members = itertools.accumulate((len(row.mixture) if row.accepted else 1 for row in soup.trace), max)
    rows = []
    for step, row, *values in zip(
        itertools.count(1), soup.trace, samples, itertools.accumulate(scores, max), members, strict=False
    ):
        logged = dict(zip(("samples", "best", "members"), values, strict=True))
        logged |= {} if row.early else {"val_acc": row.score.value}
        rows.append({"step": step, **{f"cook/{name}/{key}": value for key, value in logged.items()}})
    return rows


class Raising(Logger):
    """Takes options, then fails in everything."""

    name = "raising"
    version = 0
    asked = 0

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.asked += 1
        raise ConnectionError("the server is away")

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        assert Path(checkpoint_callback.best_model_path).exists()  # the soup is saved before it is sent
        assert checkpoint_callback.save_top_k == -1  # so loggers send it now, and not when an error would be fatal
        raise OSError("the disk is full")


def test_a_row_for_each_question_whatever_another_logger_does(recorded: Path, tmp_path: Path) -> None:
    raising = Raising()
    cooking = trainer(SoupTrainer, logger=[raising, CSVLogger(tmp_path, name="csv")])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        arguments = {"datamodule": Blobs(), "ingredients": recorded}
        soup = cooking.cook(Classifier(), **arguments, output=tmp_path / "greedy.ckpt")
        uniform = cooking.cook(Classifier(), **arguments, output=tmp_path / "uniform.ckpt", recipe=UniformSoup())
    assert any(row.early for row in soup.trace)
    assert Soup.load(tmp_path / "greedy.ckpt").mixture == soup.mixture

    rows = [filled(row) for row in read(tmp_path / "csv" / "version_0" / "metrics.csv")]
    count = len(soup.trace)
    assert rows[:count] == expected_rows(soup, "greedy")
    assert rows[count] == {"step": count, **{f"soup/greedy/{key}": value for key, value in soup.metrics.items()}}
    asked = {"samples": uniform.trace[0].samples, "val_acc": uniform.score.value, "best": uniform.score.value}
    assert rows[count + 1] == {"step": 1, **{f"cook/uniform/{k}": v for k, v in {**asked, "members": 6}.items()}}
    assert len(rows) == count + 3

    texts = [str(warning.message) for warning in caught if "Raising" in str(warning.message)]
    assert [text for text in texts if "questions" in text] == [
        "Raising could not log questions, and goes without: ConnectionError('the server is away')"
    ] * 2  # once for each recipe
    assert sum("the disk is full" in text for text in texts) == 2
    assert raising.asked == 4  # one question and the soup's metrics, twice


def test_options_beside_the_modules_hyperparameters(recorded: Path, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    cooking = trainer(SoupTrainer, logger=logger)
    recipe = GreedySoup(max_members=2)
    cooking.cook(Classifier(lr=0.7), datamodule=Blobs(), ingredients=recorded, recipe=recipe, output=tmp_path / "s")
    logged = logger.experiment.hparams
    assert logged["lr"] == 0.7
    assert {key: logged["cook/greedy"][key] for key in ("recipe", "monitor", "ingredients")} == {
        "recipe": "GreedySoup",
        "monitor": "val_acc",
        "ingredients": 6,
    }
    assert logged["cook/greedy"]["options"]["max_members"] == 2


def test_coefficients_by_layer_and_no_matplotlib(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lightning_soups.loggers.curve", None)
    logger = TensorBoardLogger(tmp_path)
    recipe = LearnedSoup("val_loss", by_layer=True, steps=2)
    soup = trainer(SoupTrainer, logger=logger).cook(
        Classifier(), datamodule=Blobs(), ingredients=recorded, recipe=recipe, output=tmp_path / "s.ckpt"
    )
    events = EventAccumulator(logger.log_dir).Reload()
    (event,) = events.Tensors("soup/learned/layers/text_summary")
    header, _, *rows = event.tensor_proto.string_val[0].decode().splitlines()
    assert header == f"| layer | {' | '.join(member.run for member in soup.mixture)} |"
    assert len(rows) == len(soup.mixture.layers) > 1
    assert events.Tags()["images"] == []


def test_the_curve(recorded: Path, tmp_path: Path) -> None:
    arguments = {"datamodule": Blobs(), "ingredients": recorded, "output": tmp_path / "soup.ckpt"}
    for monitor, bound in (("val_acc", "v"), ("val_loss", "^")):
        mode = "min" if monitor == "val_loss" else "max"
        soup = trainer(SoupTrainer).cook(Classifier(), **arguments, monitor=monitor, mode=mode)
        (axis,) = draw_curve(soup).axes
        best, *points = axis.lines
        assert best.get_ydata()[-1] == soup.score.value
        drawn = {(x, y) for line in points for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)}
        assert drawn == {(number, row.score.value) for number, row in enumerate(soup.trace, start=1)}
        early = [line for line in points if line.get_label().startswith("left out early")]
        assert [line.get_marker() for line in early] == [bound] * any(row.early for row in soup.trace)


def test_which_question_leads() -> None:
    def question(value: float, accepted: bool | None = None, early: bool = False) -> Question:
        return Question(None, Score(value, "max"), accepted, 0, 0, 0.0, cached=False, early=early)  # type: ignore

    first = question(0.5)
    assert leading(None, question(0.9, False, early=True)) is None
    assert leading(None, first) is first
    assert leading(first, question(0.9, False, early=True)) is first  # a bound is no score
    assert leading(first, question(0.5)) is first
    assert leading(first, kept := question(0.5, True)) is kept
    assert leading(first, better := question(0.6, False)) is better
    assert leading(first, question(float("nan"))) is first
    assert leading(question(float("nan")), first) is first
