"""Soups against ensembles: of a linear model they are the same, of others a plain loop knows."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from lightning_soups import EnsembleVersusSoup, Ingredients, StudyResult
from tests.helpers import mean, record
from tests.studies.linear import Linear, squared_loss
from tests.studies.plain import NAMES, PlainNumbers, accuracy, averaged, right, study, weights

LRS = [0.1, 0.3, 0.6, 1.0]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("soups")
    record(directory, LRS)
    return directory


@pytest.fixture(scope="module")
def result(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return study(EnsembleVersusSoup(), recorded, tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("linear")
    record(directory, [0.02, 0.1, 0.2], Linear)
    return directory


def test_soups_and_ensembles_are_those_of_plain_loops(result: StudyResult, recorded: Path) -> None:
    found = weights(Ingredients.load(recorded))
    members = [found, *map(list, itertools.combinations(found, 2))]
    named = [("all", "all"), *itertools.combinations((f"run-{number:02d}" for number in range(4)), 2)]
    assert len(result.rows) == 2 * len(members)
    for place, (these, names) in enumerate(zip(members, named, strict=True)):
        soup, ensemble = result.rows[2 * place : 2 * place + 2]
        assert (soup["first"], soup["second"]) == (ensemble["first"], ensemble["second"]) == names
        assert (soup["model"], ensemble["model"]) == ("soup", "ensemble")
        assert [soup[name] for name in NAMES] == pytest.approx([accuracy(mean(these), name) for name in NAMES])
        outputs = [right(averaged(these, name), name).mean().item() for name in NAMES]
        assert [ensemble[name] for name in NAMES] == pytest.approx(outputs)
        assert ensemble["mean shifted"] == pytest.approx((outputs[1] + outputs[2]) / 2)
    assert list(result.models["soup of all"]["coefficients"].values()) == [1 / 4] * 4


@pytest.mark.parametrize(("metric", "mode"), [("test_loss", "min"), ("test_acc", "max")])
def test_the_ensemble_of_a_linear_model_is_its_soup(linear: Path, tmp_path: Path, metric: str, mode: str) -> None:
    options = {"monitor": "val_loss", "mode": "min", "metric": metric, "metric_mode": mode}
    found = study(EnsembleVersusSoup(groups=1), linear, tmp_path, Linear(), **options)
    for soup, ensemble in zip(found.rows[::2], found.rows[1::2], strict=True):
        assert [soup[name] for name in NAMES] == pytest.approx([ensemble[name] for name in NAMES], rel=1e-6)
    if metric == "test_loss":
        everything = mean(weights(Ingredients.load(linear)))
        assert [found.rows[1][name] for name in NAMES] == pytest.approx(
            [squared_loss(everything, name) for name in NAMES], rel=1e-6
        )
        assert all(": 1.00 (3 pairs)" in sentence for sentence in found.conclusions)
    for sentence in found.conclusions:
        assert "of 3 pairs the soup is better in 0, the ensemble in 0." in sentence


def test_conclusions_count_and_correlate(result: StudyResult) -> None:
    for sentence, column in zip(result.conclusions, ("mean in-distribution", "mean shifted"), strict=True):
        pairs = [(a[column], b[column]) for a, b in zip(result.rows[2::2], result.rows[3::2], strict=True)]
        wins, losses = sum(a > b + 1e-9 for a, b in pairs), sum(b > a + 1e-9 for a, b in pairs)
        assert f"of 6 pairs the soup is better in {wins}, the ensemble in {losses}." in sentence
        soup, ensemble = (row[column] for row in result.rows[:2])
        assert f"The soup of all ingredients has {soup:.4f}, their ensemble {ensemble:.4f}." in sentence
        assert "0.3: unknown (1 pair), 0.6: unknown (2 pairs), 1: " in sentence


def test_correlations_are_scipys(recorded: Path, tmp_path: Path) -> None:
    options = {"monitor": "val_loss", "mode": "min", "metric": "test_loss"}
    found = study(EnsembleVersusSoup(groups=1), recorded, tmp_path, PlainNumbers(), **options)
    for sentence, column in zip(found.conclusions, ("mean in-distribution", "mean shifted"), strict=True):
        both = ([row[column] for row in found.rows[start::2]] for start in (2, 3))
        assert f"0.3–1: {stats.pearsonr(*both).statistic:.2f} (6 pairs)" in sentence


def test_groups_of_numbers_are_quantiles_and_of_words_values(recorded: Path, tmp_path: Path) -> None:
    found = study(EnsembleVersusSoup(groups=2), recorded, tmp_path)
    assert [row["group"] for row in found.rows[2::2]] == ["0.3–0.6", "0.3–0.6", "1", "0.3–0.6", "1", "1"]
    values = [{"opt": "sgd"}, {"opt": "adam"}, {"opt": "sgd"}, {}]
    own = [replace(one, hyperparameters=known) for one, known in zip(Ingredients.load(recorded), values, strict=True)]
    words = study(EnsembleVersusSoup(group_by="opt"), Ingredients(own, recorded), tmp_path)
    unknown = "not recorded"
    kinds = ["different", "sgd", unknown, "different", unknown, unknown]
    assert [row["group"] for row in words.rows[2::2]] == kinds
    assert "by opt of the pair, sgd: unknown (1 pair), different: " in words.conclusions[0]
    (legend,) = EnsembleVersusSoup().draw(words).legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == ["sgd", "different", unknown, "all 4 ingredients"]
    none = study(EnsembleVersusSoup(group_by="warmup"), recorded, tmp_path)
    assert "'warmup' was not recorded" in none.conclusions[0]


def test_figure_and_table_are_written_and_can_be_drawn_again(result: StudyResult, tmp_path: Path) -> None:

    assert result.path is not None
    for suffix in (".json", ".csv", ".png", ".svg"):
        assert result.path.with_suffix(suffix).stat().st_size > 500
    loaded = StudyResult.load(result.path)
    assert loaded == result
    assert loaded.to_csv().startswith(
        "first,second,group,model,plain,noisy,noisier,mean in-distribution,mean shifted\n"
    )
    loaded.save(tmp_path / "again", EnsembleVersusSoup().draw(loaded))
    assert (tmp_path / "again.svg").read_bytes() == result.path.with_suffix(".svg").read_bytes()
    nothing = replace(loaded, rows=tuple({**row, "mean shifted": None} for row in loaded.rows))
    nothing.save(tmp_path / "nothing", EnsembleVersusSoup().draw(nothing))


def test_which_datasets_are_in_distribution(recorded: Path, tmp_path: Path) -> None:
    options = {"names": ["a", "b", "c"], "in_distribution": ["b", "c"]}
    found = study(EnsembleVersusSoup(max_pairs=1), recorded, tmp_path, **options)
    assert list(found.rows[0])[4:] == ["b", "c", "a", "mean in-distribution", "mean shifted"]
    assert len(found.rows) == 4
    titles = [axis.get_title() for axis in EnsembleVersusSoup().draw(found).axes]
    assert titles == ["mean of 2 datasets in distribution", "a (shifted)"]


@pytest.mark.parametrize("option", ["groups", "max_pairs"])
def test_wrong_options_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"`{option}` must be at least 1, got 0"):
        EnsembleVersusSoup(**{option: 0})


def test_one_ingredient_is_refused(recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least two ingredients, got 1"):
        study(EnsembleVersusSoup(), Ingredients.load(recorded)[:1], tmp_path)
