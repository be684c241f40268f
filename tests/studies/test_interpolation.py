"""The way between two models, against plain loops and closed forms."""

from dataclasses import replace
from pathlib import Path

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_soups import Ingredients, Interpolation, StudyResult
from tests.helpers import record
from tests.studies.linear import Linear, squared_loss
from tests.studies.plain import HELD_OUT, NAMES, StateDict, accuracy, initialization, logits, right, study, weights

LRS = [0.1, 0.3, 0.6]
ALPHAS = [-0.5, 0.25, 0.5, 1.5]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("soups")
    record(directory, LRS)
    return directory


@pytest.fixture(scope="module")
def result(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    way = Interpolation("initialization", "run-02", ALPHAS, ensemble=True)
    return study(way, recorded, tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("linear")
    record(directory, [0.02, 0.2], Linear)
    return directory


def between(start: StateDict, end: StateDict, alpha: float) -> StateDict:
    return {
        name: ((1 - alpha) * value.double() + alpha * end[name].double()).to(value.dtype)
        for name, value in start.items()
    }


def test_each_point_is_that_of_a_plain_loop(result: StudyResult, recorded: Path) -> None:
    start, end = initialization(recorded), weights(Ingredients.load(recorded))[2]
    mixed, outputs = result.rows[:6], result.rows[6:]
    assert [row["alpha"] for row in mixed] == [row["alpha"] for row in outputs] == [-0.5, 0, 0.25, 0.5, 1, 1.5]
    assert {row["model"] for row in mixed} == {"weights"}
    assert {row["model"] for row in outputs} == {"outputs"}
    for row, other in zip(mixed, outputs, strict=True):
        point = between(start, end, row["alpha"])
        assert row["held-out"] == pytest.approx(accuracy(point, HELD_OUT), abs=1e-6)
        assert [row[name] for name in NAMES] == pytest.approx([accuracy(point, name) for name in NAMES], abs=1e-6)
        assert other["held-out"] is None
        for name in NAMES:
            own, others = (logits(one, name).double() for one in (start, end))
            ensemble = (1 - row["alpha"]) * own + row["alpha"] * others
            assert other[name] == pytest.approx(right(ensemble.float(), name).mean().item(), abs=1e-6)


def test_of_a_linear_model_mixed_weights_are_the_ensemble_and_losses_are_parabolas(linear, tmp_path) -> None:
    way = Interpolation("run-00", "run-01", ensemble=True)
    found = study(way, linear, tmp_path, Linear(), monitor="val_loss", mode="min")
    mixed, outputs = found.rows[:21], found.rows[21:]
    start, end = weights(Ingredients.load(linear))
    for name in NAMES:
        assert [row[name] for row in mixed] == pytest.approx([row[name] for row in outputs], rel=1e-6)
        losses = [squared_loss(between(start, end, alpha), name) for alpha in (0, 0.5, 1)]
        at_start, middle, at_end = losses
        for row in mixed:
            a = row["alpha"]  # the parabola through three points
            expected = at_start * (1 - a) * (1 - 2 * a) + 4 * middle * a * (1 - a) + at_end * a * (2 * a - 1)
            assert row[name] == pytest.approx(expected, rel=1e-5)


def test_ends_can_be_ranks(recorded: Path, tmp_path: Path) -> None:
    found = study(Interpolation("rank-1", "rank-3", [0.5, 0.5]), recorded, tmp_path)
    ingredients = Ingredients.load(recorded)
    state_dicts = dict(zip((one.run for one in ingredients), weights(ingredients), strict=True))
    scores = {run: accuracy(state_dict, HELD_OUT) for run, state_dict in state_dicts.items()}
    best, *_, worst = sorted(scores, key=lambda run: -scores[run])
    ends = [Path(*found.models[name]["coefficients"]).parent.name for name in ("start", "end")]
    assert ends == [best, worst]
    assert [row["alpha"] for row in found.rows] == [0, 0.5, 1]


def test_conclusions_compare_with_the_better_end(result: StudyResult) -> None:
    for name, sentence in zip(NAMES, result.conclusions, strict=True):
        mixed = result.rows[:6]
        better = max(mixed[1][name], mixed[4][name])
        best = max(row[name] for row in mixed)
        if best == better:
            assert sentence == f"{name}: no point of the path beats the better end, {better:.4f}."
        else:
            assert sentence.startswith(f"{name}: the best point, α = ")
            assert f"has {best:.4f}, {best - better:.4f} better" in sentence


def test_figure_and_table_are_written_and_can_be_drawn_again(result: StudyResult, tmp_path: Path) -> None:

    assert result.path is not None
    for suffix in (".json", ".csv", ".png", ".svg"):
        assert result.path.with_suffix(suffix).stat().st_size > 500
    loaded = StudyResult.load(result.path)
    assert loaded == result
    lines = loaded.to_csv().splitlines()
    assert lines[0] == "alpha,model,held-out,plain,noisy,noisier,mean in-distribution,mean shifted"
    assert lines[-1].startswith("1.5,outputs,,")
    figure = Interpolation().draw(loaded)
    assert [axis.get_title() for axis in figure.axes] == ["plain (in distribution)", "mean of 2 shifted datasets"]
    loaded.save(tmp_path / "again", figure)
    assert (tmp_path / "again.svg").read_bytes() == result.path.with_suffix(".svg").read_bytes()


@pytest.mark.parametrize("alphas", [[], [0.5], [0, float("nan")], [0, float("inf")]])
def test_wrong_alphas_are_refused(alphas: list[float]) -> None:
    with pytest.raises(ValueError, match="`alphas` must be two or more finite numbers, got"):
        Interpolation(alphas=alphas)


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ("rank-1", "rank-4", "'rank-4' names 0 ingredients and must name one"),
        ("run", "rank-1", "a rank by held-out score"),
        ("run-00", "run-00", "are the same: name another"),
        ("rank-0", "rank-1", "'rank-0' names 0"),
    ],
)
def test_ends_that_are_not_there_are_refused(
    recorded: Path, tmp_path: Path, start: str, end: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        study(Interpolation(start, end), recorded, tmp_path)


def test_a_run_with_several_checkpoints_is_not_a_name(recorded: Path, tmp_path: Path) -> None:
    found = Ingredients.load(recorded)
    own = Ingredients([replace(one, run="run") for one in found], found.directory)
    with pytest.raises(ValueError, match="'run' names 3 ingredients and must name one"):
        study(Interpolation("run", "rank-1"), own, tmp_path)


def test_an_unknown_dataset_is_refused(recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="names no test dataset: \\['other'\\]"):
        study(Interpolation(alphas=[0, 1]), recorded, tmp_path, in_distribution=["other"])
    with pytest.raises(MisconfigurationException, match="a different name for each of the 3"):
        study(Interpolation(alphas=[0, 1]), recorded, tmp_path, names=["a", "b"])
