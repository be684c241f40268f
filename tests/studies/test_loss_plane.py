"""The plane through three models, against plain vectors of parameters."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_soups import Ingredient, Ingredients, LossPlane, Mixture, StudyResult
from lightning_soups.studies.plane import Plane, plane_through
from lightning_soups.weights import inner_products
from tests.helpers import mean, record
from tests.recipes.table import Table
from tests.studies.linear import Linear, flat, squared_loss, unflat
from tests.studies.plain import HELD_OUT, NAMES, initialization, logits, right, study, weights

LRS = [0.02, 0.05, 0.1]
NAMED = ["initialization", "rank-1", "rank-2", "uniform soup"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("soups")
    record(directory, LRS, Linear, monitor="val_loss", mode="min")
    return directory


@pytest.fixture(scope="module")
def result(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    output = tmp_path_factory.mktemp("study")
    return study(LossPlane(resolution=4), recorded, output, Linear(), monitor="val_loss", metric="test_loss")


@pytest.fixture(scope="module")
def corners(recorded: Path) -> list[Tensor]:
    """θ0, θ1 and θ2."""
    found = weights(Ingredients.load(recorded))
    best = sorted(found, key=lambda state_dict: squared_loss(state_dict, HELD_OUT))
    return [flat(initialization(recorded)), flat(best[0]), flat(best[1])]


def test_points_lie_where_gram_schmidt_puts_them(result: StudyResult, corners: list[Tensor], recorded: Path) -> None:
    start, first, second = corners
    u1 = (first - start) / (first - start).norm()
    rest = (second - start) - ((second - start) @ u1) * u1
    u2 = rest / rest.norm()
    like = initialization(recorded)
    assert len(result.rows) == 4 + 4 * 4
    for row in result.rows:
        vector = start + row["x"] * u1 + row["y"] * u2
        mixed = sum(row[f"lambda {index}"] * corner for index, corner in enumerate(corners))
        torch.testing.assert_close(vector, mixed, rtol=1e-9, atol=1e-12)
        assert sum(row[f"lambda {index}"] for index in range(3)) == pytest.approx(1, abs=1e-12)
        assert row["held-out"] == pytest.approx(squared_loss(unflat(vector, like), HELD_OUT), rel=1e-5)
        losses = [squared_loss(unflat(vector, like), name) for name in NAMES]
        assert [row[name] for name in NAMES] == pytest.approx(losses, rel=1e-5)
        assert row["mean in-distribution"] == pytest.approx(losses[0], rel=1e-5)
        assert row["mean shifted"] == pytest.approx((losses[1] + losses[2]) / 2, rel=1e-5)


def test_named_models_come_first(result: StudyResult, corners: list[Tensor]) -> None:
    start, first, second = corners
    assert [row["point"] for row in result.rows] == NAMED + ["grid"] * 16
    positions = torch.tensor([[row["x"], row["y"]] for row in result.rows[:4]], dtype=torch.float64)
    assert positions[0].tolist() == [0, 0]
    assert positions[1].tolist() == pytest.approx([(first - start).norm().item(), 0])
    assert positions[2].norm().item() == pytest.approx((second - start).norm().item())
    assert (positions[2] - positions[1]).norm().item() == pytest.approx((second - first).norm().item())
    torch.testing.assert_close(positions[3], positions[:3].mean(dim=0))
    assert list(result.models) == NAMED
    assert list(result.models["uniform soup"]["coefficients"].values()) == pytest.approx([1 / 3] * 3)


def test_the_grid_surrounds_the_triangle_with_a_margin(result: StudyResult) -> None:
    xs, ys = ([row[key] for row in result.rows if row["point"] == "grid"] for key in ("x", "y"))
    length, (across, height) = result.rows[1]["x"], (result.rows[2][key] for key in ("x", "y"))
    left, right = min(0, across), max(length, across)
    room = 0.25 * max(right - left, height)
    assert (min(xs), max(xs), min(ys), max(ys)) == pytest.approx((left - room, right + room, -room, height + room))


def test_a_squared_loss_of_a_linear_model_is_quadratic_on_the_plane(result: StudyResult) -> None:
    rows = result.rows
    x, y = (torch.tensor([row[key] for row in rows], dtype=torch.float64) for key in ("x", "y"))
    terms = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], dim=1)
    values = torch.tensor([[row[name] for name in (HELD_OUT, *NAMES)] for row in rows], dtype=torch.float64)
    fitted = terms @ torch.linalg.lstsq(terms, values).solution
    torch.testing.assert_close(values, fitted, rtol=1e-5, atol=1e-6)


def test_it_says_where_the_lowest_loss_is(result: StudyResult) -> None:
    best = min(result.rows, key=lambda row: row["held-out"])
    lowest, plain, shifted = result.conclusions
    assert f"{best['held-out']:.4f} there; initialization {result.rows[0]['held-out']:.4f}, rank-1" in lowest
    assert f"of 20 points of the plane is at {best['lambda 0']:.2f} of initialization" in lowest
    assert f"plain (in distribution), test_loss: {best['plain']:.4f} there" in plain
    assert shifted.startswith("mean of 2 shifted datasets, test_loss")


def test_figure_and_table_are_written_and_can_be_drawn_again(result: StudyResult, tmp_path: Path) -> None:

    assert result.path is not None
    for suffix in (".json", ".csv", ".png", ".svg"):
        assert result.path.with_suffix(suffix).stat().st_size > 500
    loaded = StudyResult.load(result.path)
    assert loaded == result
    header, first, *_ = loaded.to_csv().splitlines()
    assert header.startswith("point,x,y,lambda 0,lambda 1,lambda 2,held-out,plain,noisy,noisier")
    assert first.startswith("initialization,0.0,0.0,1.0,0.0,0.0,")
    loaded.save(tmp_path / "again", LossPlane().draw(loaded))
    assert (tmp_path / "again.svg").read_bytes() == result.path.with_suffix(".svg").read_bytes()


def titles(result: StudyResult) -> tuple[list[str], list[str]]:
    """Of the panels, then of the colour bars."""
    axes = LossPlane().draw(result).axes
    return [axis.get_title() for axis in axes if axis.get_title()], [axis.get_xlabel() for axis in axes][-3:]


@pytest.mark.parametrize(
    ("metric", "mode", "values", "shown"),
    [
        ("test_acc", "max", [0.5, 0.75], "1 − test_acc"),
        ("test_psnr", "max", [20.0, 30.0], "test_psnr (more is better)"),
        ("test_loss", "min", [0.5, 2.0], "test_loss"),
        ("test_acc", "max", [0.5, 0.5], "1 − test_acc"),
        ("test_loss", "min", [0.5, None], "test_loss"),
    ],
)
def test_errors_are_shown_where_the_metric_is_a_rate(result: StudyResult, metric, mode, values, shown) -> None:
    rows = [
        {**row, "mean in-distribution": values[index % 2], "mean shifted": values[0]}
        for index, row in enumerate(result.rows)
    ]
    panels, bars = titles(replace(result, rows=tuple(rows), metric=metric, mode=mode))
    assert panels == ["held-out data", "plain (in distribution)", "mean of 2 shifted datasets"]
    assert bars == ["val_loss", shown, shown]


def test_a_loss_that_is_not_logged_is_replaced_by_the_monitor(recorded: Path, tmp_path: Path) -> None:
    plane = LossPlane(origin="run-00", first="run-01", second="run-02", resolution=2, loss="val_nll", margin=0)
    found = study(plane, recorded, tmp_path, Linear(), monitor="val_acc", mode="max", names=["a", "b", "c"])
    assert "'val_nll' is not logged in validation" in found.conclusions[0]
    assert (found.metric, found.datasets) == ("test_acc", ("a", "b", "c"))
    like = initialization(recorded)
    state_dicts = [flat(one) for one in weights(Ingredients.load(recorded))]
    for row in found.rows:
        vector = sum(row[f"lambda {index}"] * one for index, one in enumerate(state_dicts))
        accuracy = right(logits(unflat(vector, like), HELD_OUT, Linear), HELD_OUT).mean().item()
        assert row["held-out"] == pytest.approx(accuracy, abs=1e-6)
    best = max(row["held-out"] for row in found.rows)
    assert f"{best:.4f} there" in found.conclusions[1]
    assert titles(found)[1] == ["1 − val_acc", "1 − test_acc", "1 − test_acc"]


def test_which_datasets_are_in_distribution(recorded: Path, tmp_path: Path) -> None:
    plane = LossPlane(resolution=2)
    options = {"monitor": "val_loss", "metric": "test_loss", "in_distribution": list(NAMES)}
    found = study(plane, recorded, tmp_path, Linear(), **options)
    assert "mean shifted" not in found.rows[0]
    assert found.rows[0]["mean in-distribution"] == pytest.approx(sum(found.rows[0][name] for name in NAMES) / 3)
    assert len(found.conclusions) == 2
    assert titles(found)[0] == ["held-out data", "mean of 3 datasets in distribution"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 1}, "`resolution` must be at least 2 points along each axis, got 1"),
        ({"margin": -0.1}, "`margin` must be a finite number of 0 or more, got -0.1"),
        ({"margin": float("nan")}, "got nan"),
        ({"margin": float("inf")}, "got inf"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossPlane(**options)


@pytest.mark.parametrize("names", [("run-00", "run-00", "run-01"), ("run-00", "run-01", "halfway")])
def test_models_on_one_line_make_no_plane(recorded: Path, tmp_path: Path, names: tuple[str, str, str]) -> None:
    found = Ingredients.load(recorded)
    first, second, _ = weights(found)
    torch.save({"state_dict": mean([first, second])}, tmp_path / "halfway.ckpt")
    everything = Ingredients([*found, Ingredient(tmp_path / "halfway.ckpt", "halfway")], found.directory)
    with pytest.raises(ValueError, match=r"three models that do not lie on one line, got .*'run-01'"):
        study(LossPlane(*names), everything, tmp_path, Linear(), monitor="val_loss", mode="min")


class OnlyInnerProducts(Table):
    """Vectors as ingredients."""

    def __init__(self, vectors: dict[Ingredient, Tensor]) -> None:
        self._vectors = {one: {"weight": vector} for one, vector in vectors.items()}

    def inner_products(self, ingredients: Sequence[Ingredient], origin: Ingredient) -> dict[str, Tensor]:
        return inner_products([self._vectors[one] for one in ingredients], self._vectors[origin])


def test_mixtures_span_a_plane_as_well_as_single_models() -> None:
    names = "abcd"
    vectors = {Ingredient(Path(f"{name}.ckpt"), name): torch.randn(7, dtype=torch.float64) for name in names}
    a, b, c, d = vectors
    models = {"ab": Mixture.uniform([a, b]), "bc": Mixture({b: 0.25, c: 0.75}), "d": Mixture.uniform([d])}
    start, first, second = (
        sum(share * vectors[one] for one, share in model.coefficients.items()) for model in models.values()
    )
    plane = plane_through(models, OnlyInnerProducts(vectors))
    assert plane.length == pytest.approx((first - start).norm().item())
    assert plane.across == pytest.approx(((second - start) @ (first - start) / (first - start).norm()).item())
    assert (plane.across**2 + plane.height**2) ** 0.5 == pytest.approx((second - start).norm().item())


def test_shares_and_positions_are_each_others_inverse() -> None:
    plane = Plane(length=2.0, across=-1.5, height=0.5)
    for point in ((0.0, 0.0), (2.0, 0.0), (-1.5, 0.5), (3.25, -7.0)):
        shares = plane.shares(*point)
        assert sum(shares) == pytest.approx(1)
        assert plane.position(shares) == pytest.approx(point)
    assert plane.shares(-1.5, 0.5) == pytest.approx((0, 0, 1))
