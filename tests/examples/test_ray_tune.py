"""The example with the real Ray Tune, as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_soups import Ingredients, Soup

ROOT = Path(__file__).parents[2]


def test_every_trial_leaves_an_ingredient_and_a_soup_is_cooked(tmp_path: Path) -> None:
    pytest.importorskip("ray.tune")
    options = ["--dirpath", "soups", "--trials", "2", "--max_epochs", "1"]
    command = [sys.executable, str(ROOT / "examples" / "ray_tune.py"), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 trials succeeded" in done.stdout
    found = Ingredients.load(tmp_path / "soups")
    assert len({ingredient.hyperparameters["lr"] for ingredient in found}) == 2
    assert len({ingredient.initialization for ingredient in found}) == 1
    soup = Soup.load(tmp_path / "soups" / "soups" / "greedy.ckpt")
    assert soup.score.value >= max(ingredient.metrics["val_acc"] for ingredient in found)
