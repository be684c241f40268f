"""Angles and gains of pairs, against plain vectors and loops."""

import itertools
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from scipy import stats

from lightning_soups import AngleAdvantage, Ingredient, Ingredients, SoupCLI, StudyResult
from tests.helpers import QUIET, mean, record
from tests.studies.linear import flat
from tests.studies.plain import NAMES, PlainNumbers, accuracy, initialization, logits, losses, study, weights

LRS = [0.1, 0.3, 0.6, 1.0]
PAIRS = list(itertools.combinations(range(len(LRS)), 2))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("soups")
    record(directory, LRS)
    return directory


@pytest.fixture(scope="module")
def result(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return study(AngleAdvantage(), recorded, tmp_path_factory.mktemp("study"))


def test_angles_are_those_of_plain_vectors(result: StudyResult, recorded: Path) -> None:
    moved = [flat(one) - flat(initialization(recorded)) for one in weights(Ingredients.load(recorded))]
    assert len(result.rows) == len(PAIRS)
    for row, (one, other) in zip(result.rows, PAIRS, strict=True):
        cosine = torch.nn.functional.cosine_similarity(moved[one], moved[other], dim=0)
        assert (row["first"], row["second"]) == (f"run-{one:02d}", f"run-{other:02d}")
        assert row["angle"] == pytest.approx(math.degrees(math.acos(cosine)), abs=1e-4)


def test_gains_are_those_of_a_plain_loop(result: StudyResult, recorded: Path) -> None:
    found = weights(Ingredients.load(recorded))
    for row, (one, other) in zip(result.rows, PAIRS, strict=True):
        gains = [
            accuracy(mean([found[one], found[other]]), name)
            - (accuracy(found[one], name) + accuracy(found[other], name)) / 2
            for name in NAMES
        ]
        assert [row[f"gain {name}"] for name in NAMES] == pytest.approx(gains, abs=1e-6)
        assert row["gain mean in-distribution"] == pytest.approx(gains[0], abs=1e-6)
        assert row["gain mean shifted"] == pytest.approx((gains[1] + gains[2]) / 2, abs=1e-6)


def test_a_smaller_loss_is_a_gain(recorded: Path, tmp_path: Path) -> None:
    options = {"monitor": "val_loss", "mode": "min", "metric": "test_loss"}
    found = study(AngleAdvantage(), recorded, tmp_path, PlainNumbers(), **options)
    state_dicts = weights(Ingredients.load(recorded))
    for row, (one, other) in zip(found.rows, PAIRS, strict=True):
        both = [state_dicts[one], state_dicts[other]]
        soup, *single = (losses(logits(own, "noisy"), "noisy").mean().item() for own in (mean(both), *both))
        assert row["gain noisy"] == pytest.approx(sum(single) / 2 - soup, abs=1e-6)


def test_conclusions_count_and_correlate(result: StudyResult) -> None:
    for sentence, column in zip(result.conclusions, ("mean in-distribution", "mean shifted"), strict=True):
        gains = [row[f"gain {column}"] for row in result.rows]
        assert f"{sum(gain > 0 for gain in gains)} of 6 averages are better" in sentence
        assert f"the mean gain is {sum(gains) / 6:.4f}" in sentence
        expected = stats.spearmanr([row["angle"] for row in result.rows], gains).statistic
        assert f"Rank correlation of angle and gain: {expected:.2f}, " in sentence
        assert re.search(
            r"By larger lr of the pair, 0\.3: unknown \(1 pair\), 0\.6: unknown \(2 pairs\), 1: ", sentence
        )


def test_figure_and_table_are_written_and_can_be_drawn_again(result: StudyResult, tmp_path: Path) -> None:

    assert result.path is not None
    for suffix in (".json", ".csv", ".png", ".svg"):
        assert result.path.with_suffix(suffix).stat().st_size > 500
    loaded = StudyResult.load(result.path)
    assert loaded == result
    assert loaded.to_csv().startswith("first,second,angle,group,larger lr,gain plain,gain noisy,gain noisier,gain mean")
    loaded.save(tmp_path / "again", AngleAdvantage().draw(loaded))
    assert (tmp_path / "again.svg").read_bytes() == result.path.with_suffix(".svg").read_bytes()


def test_colours_are_numbers_words_or_not_known(recorded: Path, tmp_path: Path, result: StudyResult) -> None:
    known = [{"opt": "sgd", "lr": 0.1}, {"opt": "adam", "lr": 0.1}, {"opt": "sgd", "lr": 0.2}, {}]
    found = Ingredients.load(recorded)
    own = Ingredients(
        [replace(one, hyperparameters=values) for one, values in zip(found, known, strict=True)], found.directory
    )
    words = study(AngleAdvantage(color_by="opt"), own, tmp_path)
    kinds = ["different", "same", "not recorded", "different", "not recorded", "not recorded"]
    assert [row["group"] for row in words.rows] == kinds
    (legend,) = AngleAdvantage().draw(words).legends
    assert [text.get_text() for text in legend.get_texts()] == ["not recorded", "different", "same"]
    assert legend.get_title().get_text() == "opt of the pair"
    numbers = study(AngleAdvantage(color_by="lr"), own, tmp_path)
    assert [row["larger lr"] for row in numbers.rows] == [0.1, 0.2, None, 0.2, None, None]
    figure = AngleAdvantage(color_by="lr").draw(numbers)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["not recorded"]
    assert figure.axes[-1].get_ylabel() == "larger lr of the pair"
    nothing = study(AngleAdvantage(color_by="warmup", max_pairs=2), found, tmp_path)
    assert "'warmup' was not recorded" in nothing.conclusions[0]
    assert {row["group"] for row in nothing.rows} == {"not recorded"}
    assert not AngleAdvantage().draw(result).legends


def test_some_pairs_are_drawn(recorded: Path, tmp_path: Path, result: StudyResult) -> None:
    found = study(AngleAdvantage(max_pairs=2, seed=3), recorded, tmp_path)
    known = {(row["first"], row["second"]): (row["angle"], row["gain noisy"]) for row in result.rows}
    assert len({(row["first"], row["second"]) for row in found.rows}) == 2
    for row in found.rows:
        assert known[row["first"], row["second"]] == (row["angle"], row["gain noisy"])


def test_an_ingredient_that_never_moved_has_no_angle(recorded: Path, tmp_path: Path) -> None:
    found = Ingredients.load(recorded)
    still = Ingredient(found.initialization.path, "still", initialization=found[0].initialization)
    own = Ingredients([*found, still], found.directory, found.initialization.path)
    result = study(AngleAdvantage(), own, tmp_path, monitor="val_acc")
    loaded = StudyResult.load(tmp_path / "study.json")
    assert [row["angle"] for row in loaded.rows if row["second"] == "still"] == [None] * 4
    finite = [row for row in result.rows if row["second"] != "still"]
    expected = stats.spearmanr(*([row[key] for row in finite] for key in ("angle", "gain plain"))).statistic
    assert f"angle and gain: {expected:.2f}" in result.conclusions[0]
    AngleAdvantage().draw(loaded)


def test_pairs_with_nan_are_left_out_and_counted(recorded: Path, tmp_path: Path, result: StudyResult) -> None:
    found = Ingredients.load(recorded)
    broken = torch.load(found[3].path, weights_only=True)
    broken["state_dict"] = {name: torch.full_like(value, 3e38) for name, value in broken["state_dict"].items()}
    torch.save(broken, tmp_path / "nan.ckpt")
    own = Ingredients([*found[:3], replace(found[3], path=tmp_path / "nan.ckpt", sha256=None)], found.directory)
    options = {"monitor": "val_loss", "mode": "min", "metric": "test_loss"}
    spoiled, clean = (
        study(AngleAdvantage(), some, tmp_path / str(i), PlainNumbers(), **options).conclusions
        for i, some in enumerate([own, Ingredients(found[:3], found.directory)])
    )
    for text, expected in zip(spoiled, clean, strict=True):
        assert "of 3 averages" in text
        assert text == f"{expected} Left out: 3 more pairs, where test_loss is NaN or infinite."
    alone = Ingredients([found[0], own[3]], found.directory)
    (text, _) = study(AngleAdvantage(), alone, tmp_path / "alone", PlainNumbers(), **options).conclusions
    assert text == "plain (in distribution): test_loss is NaN or infinite in every pair, so there are no gains."
    assert not any("Left out" in text for text in result.conclusions)


def test_what_cannot_be_studied_is_refused(recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`max_pairs` must be at least 1, got 0"):
        AngleAdvantage(max_pairs=0)
    found = Ingredients.load(recorded)
    with pytest.raises(ValueError, match="at least two ingredients, got 1"):
        study(AngleAdvantage(), found[:1], tmp_path)
    others = [found[0], replace(found[1], initialization="another")]
    with pytest.warns(UserWarning, match="2 different"), pytest.raises(ValueError, match="as `initialization`"):
        study(AngleAdvantage(), Ingredients(others, found.directory), tmp_path)


def test_it_runs_from_the_command_line(recorded: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-soup"])
    quiet = {**QUIET, "accelerator": "cpu", "devices": 1, "default_root_dir": str(tmp_path)}
    shared = {"model": "tests.studies.plain.ManyTests", "data": "tests.studies.plain.Shifted", "trainer": quiet}
    options = {"class_path": "AngleAdvantage", "init_args": {"color_by": "hidden", "max_pairs": 5}}
    config = {**shared, "study": options, "ingredients": str(recorded), "output": str(tmp_path / "angles")}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(config))
    SoupCLI(args=["study", "--config", str(tmp_path / "study.yaml"), "--in_distribution", "[noisy,plain]"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "AngleAdvantage: test_acc on test data" in printed
    assert "of 5 averages are better" in printed
    assert f"Saved to {tmp_path / 'angles'} (.json, .csv, .png, .svg)" in printed
    loaded = StudyResult.load(tmp_path / "angles.json")
    assert loaded.options == {"color_by": "hidden", "max_pairs": 5, "seed": 0}
    assert (loaded.in_distribution, loaded.shifted) == (("noisy", "plain"), ("noisier",))
