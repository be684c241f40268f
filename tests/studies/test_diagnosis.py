"""Ingredients that do not belong together, made on purpose, against plain PyTorch."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lightning_soups import Diagnosis, Ingredients, StudyResult
from lightning_soups.studies.suspects import Look, about_starts, about_suspects, find_suspects
from tests.helpers import CLASSES, FEATURES, Classifier, mean, record
from tests.studies.plain import HELD_OUT, StateDict, accuracy, initialization, logits, losses, study, weights

LRS = [0.1, 0.2, 0.3, 0.6]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("soups")
    record(directory, LRS)
    return directory


def mirrored(state: StateDict) -> StateDict:
    """The same function with the signs of all hidden units turned, as tanh is odd; the mean of both is constant."""
    return {name: value if name == "net.2.bias" else -value for name, value in state.items()}


@pytest.fixture(scope="module")
def spoiled(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints without records: good ones, one from another basin, one that went far, one with NaN."""
    directory = tmp_path_factory.mktemp("spoiled")
    ingredients = Ingredients.load(recorded)
    states, start = weights(ingredients), initialization(recorded)
    best = max(states, key=lambda state: accuracy(state, HELD_OUT))
    others = {
        "mirrored": mirrored(best),
        "far": {name: start[name] + 40 * (value - start[name]) for name, value in states[0].items()},
        "nan": {name: value.clone().fill_(math.nan) for name, value in states[0].items()},
    }
    for name, state in {**{f"good-{i}": state for i, state in enumerate(states)}, **others}.items():
        checkpoint = torch.load(ingredients[0].path, weights_only=True)
        torch.save({**checkpoint, "state_dict": dict(state)}, directory / f"{name}.ckpt")
    return directory


@pytest.fixture(scope="module")
def result(recorded: Path, spoiled: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    start = Ingredients.load(recorded).initialization.path
    return study(
        Diagnosis(points=3),
        str(spoiled / "*.ckpt"),
        tmp_path_factory.mktemp("study"),
        monitor="val_acc",
        initialization=start,
    )


def state_of(spoiled: Path, name: str) -> StateDict:
    return torch.load(spoiled / f"{name.rpartition('/')[2]}.ckpt", weights_only=True)["state_dict"]


def flat(state: StateDict) -> Tensor:
    return torch.cat([value.flatten().double() for value in state.values()])


def test_what_does_not_belong_is_found(result: StudyResult) -> None:
    verdicts = {row["ingredient"].rpartition("/")[2]: row["verdict"] for row in result.rows}
    assert "barrier" in verdicts.pop("mirrored")
    assert "far" in verdicts.pop("far")
    assert "diverged" in verdicts.pop("nan")
    assert set(verdicts.values()) == {"keep"}
    text = "\n".join(result.conclusions)
    assert "was not recorded" in text
    for reason, name in (("barrier", "mirrored"), ("far", "far"), ("diverged", "nan")):
        sentence = next(text for text in result.conclusions if text.startswith(f"Leave out: {reason} ("))
        assert f"/{name} (" in sentence
    assert len(result.models["kept"]["coefficients"]) == 4
    assert result.datasets == ()
    assert result.path.with_suffix(".png").stat().st_size > 10_000


def test_distances_and_angles_from_the_start(recorded: Path, spoiled: Path, result: StudyResult) -> None:
    start = flat(initialization(recorded))
    ways = [flat(state_of(spoiled, row["ingredient"])) - start for row in result.rows]
    for row, way in zip(result.rows, ways, strict=True):
        if "nan" in row["ingredient"]:
            assert math.isnan(row["from start"])
            continue
        assert row["from start"] == pytest.approx(float(way.norm()), rel=1e-9)
        assert row["from best"] == pytest.approx(float((way - ways[0]).norm()), rel=1e-6, abs=1e-6)
        angle = torch.rad2deg(torch.arccos((way @ ways[0] / way.norm() / ways[0].norm()).clamp(-1, 1)))
        assert row["angle to best"] == pytest.approx(float(angle), abs=1e-4)
    assert result.details["kind"].startswith("angle")


def test_barriers_are_below_the_chord(spoiled: Path, result: StudyResult) -> None:
    best = state_of(spoiled, result.rows[0]["ingredient"])
    assert result.rows[0]["barrier"] == 0
    for row in result.rows[1:]:
        other = state_of(spoiled, row["ingredient"])
        falls = {}
        for share in (0.25, 0.5, 0.75):
            mixed = {k: ((1 - share) * best[k].double() + share * other[k].double()).float() for k in best}
            chord = (1 - share) * accuracy(best, HELD_OUT) + share * accuracy(other, HELD_OUT)
            falls[share] = chord - accuracy(mixed, HELD_OUT)
        highest = max(falls, key=falls.get)
        assert row["barrier"] == pytest.approx(max(0, falls[highest]), abs=1e-6), row
        if row["barrier"]:
            assert row["at α"] == highest
    assert accuracy(best, HELD_OUT) == accuracy(mirrored(best), HELD_OUT)


def test_without_a_start_distances_are_from_the_best(spoiled: Path, tmp_path: Path) -> None:
    found = study(Diagnosis(points=1), str(spoiled / "[gm]*.ckpt"), tmp_path, monitor="val_acc")
    best = flat(state_of(spoiled, found.rows[0]["ingredient"]))
    for row in found.rows:
        assert (row["from start"], row["angle to best"]) == (None, None)
        distance = float((flat(state_of(spoiled, row["ingredient"])) - best).norm())
        assert row["from best"] == pytest.approx(distance, rel=1e-6, abs=1e-6)
    assert any(text.startswith("Distances are from the best ingredient") for text in found.conclusions)
    assert found.details["kind"] == "distance"
    assert found.path.with_suffix(".png").stat().st_size > 10_000


def test_a_loss_rises_above_the_chord(recorded: Path, spoiled: Path, tmp_path: Path) -> None:
    how = {"monitor": "val_loss", "mode": "min"}
    found = study(Diagnosis(points=1), str(spoiled / "[gm]*.ckpt"), tmp_path, **how)

    def loss(state: StateDict) -> float:
        return float(losses(logits(state, HELD_OUT), HELD_OUT).mean())

    best = state_of(spoiled, found.rows[0]["ingredient"])
    for row in found.rows[1:]:
        other = state_of(spoiled, row["ingredient"])
        rise = loss(mean([best, other])) - (loss(best) + loss(other)) / 2
        assert row["barrier"] == pytest.approx(max(0, rise), abs=1e-6)
    assert "barrier" in next(row["verdict"] for row in found.rows if "mirrored" in row["ingredient"])


def test_another_initialization_is_found_in_the_records(tmp_path: Path) -> None:
    record(tmp_path / "soups", [0.1, 0.3])
    record(tmp_path / "other", [0.2], seed=1)
    paths = [one.path for folder in ("soups", "other") for one in Ingredients.load(tmp_path / folder)]
    with pytest.warns(UserWarning, match="2 different initializations"):
        found = study(Diagnosis(), paths, tmp_path)
    starts = {row["ingredient"]: row["start"] for row in found.rows}
    assert len(set(starts.values())) == 2
    best = found.rows[0]["start"]
    for row in found.rows:
        assert ("other start" in row["verdict"]) == (row["start"] != best)
    assert found.conclusions[0].startswith("The ingredients started from 2 different initializations: 2 from")


def test_batch_normalization_is_pointed_out(recorded: Path, tmp_path: Path) -> None:
    class Normalized(Classifier):
        def __init__(self, lr: float = 0.1) -> None:
            super().__init__(lr)
            self.net = nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES))

    record(tmp_path, [0.1, 0.3], Normalized)
    found = study(Diagnosis(points=1), tmp_path, tmp_path, Normalized())
    assert "(1 layers, the first is 'net.1.running_mean')" in found.conclusions[-1]
    plain = study(Diagnosis(points=1), recorded, tmp_path)
    assert "running statistics" not in "".join(plain.conclusions)
    assert plain.conclusions[0].startswith("All ingredients started from the same weights: 4 from ")


def look(name: str, score: float = 0.9, start: str | None = "a", distance: float = 1.0, barrier: float = 0.0) -> Look:
    return Look(name, score, start, distance, barrier, 0.5)


def test_reasons_by_their_numbers() -> None:
    looks = [
        look("best", 0.95),
        look("fine", 0.94, distance=1.1),
        look("fine too", 0.93, start=None, distance=2.9, barrier=0.02),
        look("wall", barrier=0.021),
        look("weak", score=0.7),
        look("far", 0.94, distance=3.4),
        look("lost", 0.5, start="b", distance=math.inf, barrier=math.nan),
    ]
    found = dict(zip([one.name for one in looks], find_suspects(looks, barrier=0.02, far=3.0), strict=True))
    assert [sorted(found[name]) for name in ("best", "fine", "fine too")] == [[], [], []]
    assert found["wall"] == {"barrier": "by 0.0210 at α = 0.5"}
    assert found["weak"] == {"weak": "0.7000"}
    assert found["far"] == {"far": "3.1 times the median distance"}
    assert found["lost"] == {"other start": "from b", "diverged": "distance inf, barrier nan", "weak": "0.5000"}


def test_nothing_to_say_and_nothing_left() -> None:
    alike = [look("best"), look("same")]
    assert about_suspects(alike, find_suspects(alike, 0.02, 3.0)) == [
        "No ingredient stands out: nothing speaks against averaging all of them."
    ]
    apart = [look("best"), look("other", barrier=0.3), look("another", barrier=0.4)]
    *_, last = about_suspects(apart, find_suspects(apart, 0.02, 3.0))
    assert last.startswith("Nothing is left to average with the best ingredient, best.")
    assert about_starts([look("a", start=None)]).startswith("What the ingredients started from was not recorded")
    assert about_starts([look("a"), look("b", start=None)]).endswith("partly known: 1 from a, 1 not recorded.")


def test_advice_that_makes_the_soup_worse_is_qualified(recorded: Path, tmp_path: Path, result: StudyResult) -> None:
    """Three models on one side of a good one, and one so far on the other that it is the mean of all."""
    good = torch.load(Ingredients.load(recorded)[-1].path, weights_only=True)
    torch.manual_seed(0)
    noise = {name: 0.6 * torch.randn_like(value) for name, value in good["state_dict"].items()}
    states = {}
    for name, share in {"a": 0.45, "b": 0.5, "c": 0.55, "other": -1.5}.items():
        states[name] = {key: value + share * noise[key] for key, value in good["state_dict"].items()}
        torch.save({**good, "state_dict": states[name]}, tmp_path / f"{name}.ckpt")
    found = study(Diagnosis(points=1), str(tmp_path / "*.ckpt"), tmp_path, monitor="val_loss", mode="min")
    verdicts = {row["ingredient"].rpartition("/")[2]: row["verdict"] for row in found.rows}
    assert verdicts.pop("other").startswith("leave out: ")
    assert set(verdicts.values()) == {"keep"}
    everything, kept = (
        float(losses(logits(mean([states[name] for name in some]), HELD_OUT), HELD_OUT).mean())
        for some in (states, verdicts)
    )
    assert everything < kept
    (text,) = [text for text in found.conclusions if text.startswith("On the held-out data the best")]
    qualified = "So leaving ingredients out makes the uniform soup worse here"
    assert f"of all {everything:.4f}, that of the 3 to keep {kept:.4f}. {qualified}" in text
    assert qualified not in "".join(result.conclusions)


def test_what_cannot_work_is_refused(recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least two, got 1"):
        study(Diagnosis(), Ingredients.load(recorded)[:1], tmp_path)
    with pytest.raises(ValueError, match="`points` must be at least 1, got 0"):
        Diagnosis(points=0)
    with pytest.raises(ValueError, match=r"`barrier` must be 0 or a positive number such as 0\.02, got -1"):
        Diagnosis(barrier=-1)
    with pytest.raises(ValueError, match="`far` must be a number above 1 such as 3, got 1"):
        Diagnosis(far=1)
