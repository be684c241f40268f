import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_soups.weights import average
from lightning_soups.weights.averaging import differences

FLOATS = st.floats(-1e4, 1e4, allow_nan=False, width=32)


def one_rounding(dtype: torch.dtype, value: Tensor) -> Tensor:
    """The distance to the next number of the dtype."""
    return torch.finfo(dtype).eps * value.abs() + torch.finfo(dtype).tiny


@given(
    rows=st.lists(st.lists(FLOATS, min_size=3, max_size=3), min_size=1, max_size=6),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_uniform_average_is_the_float64_mean_rounded_once(rows: list[list[float]], dtype: torch.dtype) -> None:
    tensors = [torch.tensor(row).to(dtype) for row in rows]
    result = average([{"w": tensor} for tensor in tensors], [1 / len(rows)] * len(rows))["w"]
    exact = [math.fsum(tensor[i].item() for tensor in tensors) / len(rows) for i in range(3)]
    reference = torch.tensor(exact, dtype=torch.float64)
    assert result.dtype == dtype
    assert ((result.double() - reference).abs() <= one_rounding(dtype, reference)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_neither_overflows_nor_drifts(dtype: torch.dtype) -> None:
    big = torch.full((4,), 60000.0).to(dtype)
    assert torch.equal(average([{"w": big}] * 64, [1 / 64] * 64)["w"], big)
    # 1 + 2^-k is lost when summed in bf16 one by one
    values = [torch.tensor([1.0 + (i % 2) / 64]).to(dtype) for i in range(200)]
    mean = average([{"w": value} for value in values], [1 / 200] * 200)["w"]
    assert torch.equal(mean, torch.tensor([1.0 + 1 / 128], dtype=torch.float64).to(dtype))


def test_weighted_sum_with_any_coefficients() -> None:
    a, b = torch.randn(5, 3), torch.randn(5, 3)
    result = average([{"w": a}, {"w": b}], [1.5, -0.5])["w"]
    torch.testing.assert_close(result, (1.5 * a.double() - 0.5 * b.double()).float(), rtol=0, atol=0)


def test_a_single_checkpoint_is_copied_bit_for_bit() -> None:
    state_dict = {"w": torch.tensor([0.1, -0.0, 1e-45, 3.0]), "n": torch.tensor(7)}
    result = average([state_dict], [1.0])
    assert result["w"].numpy().tobytes() == state_dict["w"].numpy().tobytes()
    assert result["w"].data_ptr() != state_dict["w"].data_ptr()


def test_complex_empty_and_zero_dimensional_tensors() -> None:
    first = {"c": torch.tensor([1 + 2j]), "e": torch.zeros(0, 3), "f": torch.zeros(0), "s": torch.tensor(1.0)}
    second = {"c": torch.tensor([3 - 2j]), "e": torch.zeros(0, 3), "f": torch.zeros(0), "s": torch.tensor(2.0)}
    result = average([first, second], [0.5, 0.5])
    assert result["c"].item() == 2 + 0j
    assert result["e"].shape == (0, 3)
    assert result["f"].shape == (0,)
    assert result["s"].shape == ()
    assert result["s"].item() == 1.5


@pytest.mark.parametrize(
    ("values", "coefficients", "expected"),
    [
        ([torch.tensor(5), torch.tensor(5)], [0.5, 0.5], 5),
        ([torch.tensor(5), torch.tensor(9)], [0.5, 0.5], 5),
        ([torch.tensor(5), torch.tensor(9)], [0.3, 0.7], 9),
        ([torch.tensor(True), torch.tensor(False)], [0.5, 0.5], True),
        ([torch.tensor(2**53 + 1), torch.tensor(2**53 + 1)], [0.5, 0.5], 2**53 + 1),
    ],
)
def test_integers_and_bools_are_chosen_and_never_averaged(
    values: list[Tensor], coefficients: list[float], expected: int
) -> None:
    result = average([{"n": value} for value in values], coefficients)["n"]
    assert result.dtype == values[0].dtype
    assert result.item() == expected


def test_extra_state_is_chosen_like_a_counter() -> None:
    first, second = {"_extra_state": {"version": 1}}, {"_extra_state": {"version": 2}}
    assert average([first, second], [0.4, 0.6]) == second
    with pytest.raises(ValueError, match=r"_extra_state: dtype no tensor against torch\.float32"):
        average([first, {"_extra_state": torch.zeros(1)}], [0.5, 0.5])


def test_tied_tensors_stay_tied_and_others_do_not_become_tied() -> None:
    def tied(value: float) -> dict[str, Tensor]:
        weight = torch.full((2, 2), value)
        return {"embedding": weight, "head": weight, "other": weight.clone()}

    result = average([tied(1.0), tied(2.0)], [0.5, 0.5])
    assert result["embedding"].data_ptr() == result["head"].data_ptr()
    assert result["other"].data_ptr() != result["head"].data_ptr()
    untied = {name: tensor.clone() for name, tensor in tied(2.0).items()}
    mixed = average([tied(1.0), untied], [0.5, 0.5])
    assert mixed["embedding"].data_ptr() != mixed["head"].data_ptr()


def test_views_of_one_storage_are_not_mistaken_for_tied_tensors() -> None:
    base = torch.arange(4.0)
    result = average([{"a": base[:2], "b": base[2:]}], [1.0])
    assert result["a"].tolist() == [0, 1]
    assert result["b"].tolist() == [2, 3]


def test_checkpoints_that_do_not_fit_are_refused_tensor_by_tensor() -> None:
    first = {"w": torch.zeros(2), "n": torch.tensor(1), "only": torch.zeros(1)}
    second = {"w": torch.zeros(3), "n": torch.tensor(1.0)}
    with pytest.raises(ValueError, match="only: only in the first") as raised:
        average([first, second], [0.5, 0.5])
    assert "w: shape (2,) against (3,)" in str(raised.value)
    assert "n: dtype torch.int64 against torch.float32" in str(raised.value)
    assert differences(first, first) == []


def test_thousands_of_differences_are_summed_up_and_none_of_a_kind_is_hidden() -> None:
    first = {f"a.{index}": torch.zeros(2) for index in range(3000)} | {"w": torch.zeros(2, 3), "n": torch.tensor(1)}
    second = {f"b.{index}": torch.zeros(4) for index in range(312)} | {"w": torch.zeros(3, 2), "n": torch.tensor(1.0)}
    lines = differences(first, second)
    assert lines[:2] == ["  a.0: only in the first, shape (2,)", "  a.1: only in the first, shape (2,)"]
    assert lines[6:9] == [
        "  … and 2994 more only in the first",
        "  b.0: only in the second, shape (4,)",
        "  b.1: only in the second, shape (4,)",
    ]
    assert lines[13:] == [
        "  … and 306 more only in the second",
        "  w: shape (2, 3) against (3, 2)",
        "  n: dtype torch.int64 against torch.float32",
    ]
    few = {f"a.{index}": torch.zeros(2) for index in range(20)}
    assert len(differences(few, {})) == 20
    assert not any("more" in line for line in differences(few, {}))
    assert differences({**few, "x": torch.zeros(1)}, {})[20] == "  … and 1 more only in the first"


@pytest.mark.parametrize(
    ("count", "coefficients", "message"),
    [
        (0, [], "at least one"),
        (2, [1.0], "2 checkpoints and 1 coeff"),
        (1, [math.nan], "finite"),
        (1, [math.inf], "fin"),
    ],
)
def test_bad_coefficients_are_refused(count: int, coefficients: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        average([{"w": torch.zeros(1)}] * count, coefficients)
