import shutil
from pathlib import Path

import pytest

from lightning_soups import GreedySoup, Ingredients, SoupTrainer, StudyResult, UniformSoup
from tests.helpers import Blobs, Classifier, record, trainer

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script><path id="a"/></svg>'


def study_result(**other) -> StudyResult:
    """What a study might have found."""
    known = {
        "study": "Interpolation",
        "options": {"start": "rank-1", "alphas": [0.0, 0.5]},
        "rows": (
            {"alpha": 0.0, "model": "weights", "test": 0.8765432},
            {"alpha": 0.5, "model": "weights", "test": None},
        ),
        "conclusions": ("test: no point of the path beats the better end.",),
        "models": {"start": {"coefficients": {"runs/run-00/x.ckpt": 1.0}}},
        "details": {},
        "monitor": "val_acc",
        "metric": "test_acc",
        "mode": "max",
        "in_distribution": ("test",),
        "shifted": ("noisy",),
        "ingredients": ({"path": "runs/run-00/x.ckpt"},),
        "caveats": ("the last batch was left out",),
        "versions": {"torch": "2.0"},
        "created": "2026-01-02T03:04:05+00:00",
    }
    return StudyResult(**{**known, **other})


@pytest.fixture(scope="session")
def _cooked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report") / "soups"
    record(directory, [0.02, 0.1, 0.5])
    for recipe in (GreedySoup(), UniformSoup()):
        ingredients = Ingredients.load(directory)
        trainer(SoupTrainer).cook(Classifier(), datamodule=Blobs(), ingredients=ingredients, recipe=recipe)
    study_result().save(directory / "studies" / "interpolation")
    (directory / "studies" / "interpolation.svg").write_bytes(SVG)
    return directory


@pytest.fixture
def directory(_cooked: Path, tmp_path: Path) -> Path:
    """Three ingredients, two soups and a study with a figure, to do anything with."""
    return Path(shutil.copytree(_cooked, tmp_path / "moved"))
