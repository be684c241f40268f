import math

import pytest

from lightning_soups.score import Score


@pytest.mark.parametrize(("mode", "better", "worse"), [("max", 0.9, 0.8), ("min", 0.8, 0.9)])
def test_greater_means_better(mode: str, better: float, worse: float) -> None:
    assert Score(better, mode) > Score(worse, mode)
    assert Score(better, mode) >= Score(better, mode)
    assert Score(worse, mode) < Score(better, mode)
    assert max(Score(worse, mode), Score(better, mode)).value == better
    assert not Score(worse, mode) >= Score(better, mode)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_nan_never_passes_and_sorts_last(mode: str) -> None:
    nan, number = Score(math.nan, mode), Score(0.0, mode)
    assert not nan >= number
    assert not nan >= Score(math.nan, mode)
    assert number >= nan
    assert number > nan
    assert sorted([nan, number, Score(1.0, mode)], reverse=True)[-1] is nan


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="'min' or 'max', got 'up'"):
        Score(1.0, "up")


def test_scores_of_different_modes_cannot_be_compared() -> None:
    with pytest.raises(AssertionError):
        assert Score(1.0, "min") < Score(2.0, "max")
