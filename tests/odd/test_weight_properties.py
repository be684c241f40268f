"""What holds of averages whatever is averaged: tried with many examples (LIGHTNING_SOUPS_LONG_TESTS=1: thousands)."""

import math
from fractions import Fraction
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_soups.weights import RunningSum, average, chunks, fit, inner_products
from lightning_soups.weights.averaging import write_average
from lightning_soups.weights.kinds import same_bytes
from lightning_soups.weights.rounding import narrow
from tests.odd.nearest import nearest, rounded, values_of

FLOATS = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
]
INTEGERS = [torch.int64, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool]
TABLES = {dtype: values_of(dtype) for dtype in FLOATS if dtype.itemsize <= 2}
SHAPES = st.sampled_from([(), (0,), (3, 0), (1,), (5,), (2, 3), (1, 4, 2), (17,)])
PIECES = st.sampled_from([16, 32, 1 << 16])
DTYPES = st.sampled_from(FLOATS)


def numbers(data: st.DataObject, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Numbers that the dtype has, of all sizes but the largest, whose sums would overflow."""
    count = math.prod(shape)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    if dtype in TABLES:
        values = TABLES[dtype]
        values = values[values.abs() <= values.max() / 4]
        return values[torch.randint(len(values), (count,), generator=generator)].to(dtype).reshape(shape)
    exponents = torch.randint(-30, 30, (count,), generator=generator)
    return torch.ldexp(torch.randn(count, generator=generator, dtype=torch.float64), exponents).to(dtype).reshape(shape)


def members(data: st.DataObject, dtype: torch.dtype) -> list[dict[str, Tensor]]:
    shape = data.draw(SHAPES)
    return [{"w": numbers(data, dtype, shape)} for _ in range(data.draw(st.integers(1, 6)))]


def uniform(dicts: list[dict[str, Tensor]]) -> Tensor:
    return average(dicts, [1 / len(dicts)] * len(dicts))["w"]


@given(st.data(), DTYPES, PIECES)
def test_a_uniform_soup_is_the_float64_mean_rounded_once(data: st.DataObject, dtype: torch.dtype, piece: int) -> None:
    dicts = members(data, dtype)
    with mock.patch.object(chunks, "_PIECE", piece):
        result = uniform(dicts)
    columns = zip(*(one["w"].double().flatten().tolist() for one in dicts), strict=True)
    exact = torch.tensor([math.fsum(column) / len(dicts) for column in columns], dtype=torch.float64)
    assert result.dtype == dtype
    assert result.shape == dicts[0]["w"].shape
    if dtype == torch.float64:
        size = torch.stack([one["w"].abs() for one in dicts]).sum(0).flatten()
        assert ((result.flatten() - exact).abs() <= 1e-15 * size).all()
    elif dtype == torch.float32:  # numpy rounds once
        assert result.flatten().tolist() == exact.numpy().astype("float32").tolist()
    else:
        assert torch.equal(result.flatten().double(), rounded(exact, dtype))


@given(st.data(), DTYPES)
def test_the_order_of_members_does_not_matter(data: st.DataObject, dtype: torch.dtype) -> None:
    dicts = members(data, dtype)
    again = uniform(data.draw(st.permutations(dicts)))
    if dtype == torch.float64:
        torch.testing.assert_close(again, uniform(dicts), rtol=1e-12, atol=1e-3)
    else:
        assert same_bytes(again + 0 if dtype.itemsize > 1 else again, uniform(dicts))


@given(st.data(), DTYPES, st.integers(1, 9))
def test_the_mean_of_equals_is_what_they_are(data: st.DataObject, dtype: torch.dtype, count: int) -> None:
    one = numbers(data, dtype, data.draw(SHAPES))
    result = uniform([{"w": one}] * count)
    if dtype == torch.float64:  # whose sums are themselves rounded
        torch.testing.assert_close(result, one, rtol=1e-15, atol=0)
    else:
        assert torch.equal(result, one)


@given(st.data(), DTYPES, PIECES)
def test_every_way_to_average_gives_the_same_bits(data: st.DataObject, dtype: torch.dtype, piece: int) -> None:
    dicts = members(data, dtype)
    count, shape = len(dicts), dicts[0]["w"].shape
    coefficients = data.draw(st.lists(st.floats(-2, 2), min_size=count, max_size=count))
    whole = uniform(dicts)
    weighted = average(dicts, coefficients)["w"]
    with mock.patch.object(chunks, "_PIECE", piece):
        out = {"w": torch.empty(shape, dtype=dtype)}
        write_average(out, dicts, coefficients)
        assert same_bytes(out["w"], weighted)
        write_average(out, dicts, [1 / count] * count)
        assert same_bytes(out["w"], whole)
        sums = RunningSum()
        for one in dicts[:-1]:
            sums.add(one)
        sums.write_mean_with(dicts[-1], out)
        assert same_bytes(out["w"], whole)
        scattered = [{"w": one["w"].unsqueeze(-1).repeat(*[1] * len(shape), 3)[..., 1]} for one in dicts]
        assert same_bytes(average(scattered, coefficients)["w"], weighted)


@given(st.data(), DTYPES)
def test_weighted_sums(data: st.DataObject, dtype: torch.dtype) -> None:
    """With coefficients that make every product and sum exact, they are exact to one rounding."""
    dicts = members(data, dtype)
    coefficients = [Fraction(data.draw(st.integers(-8, 8)), 8) for _ in dicts]
    result = average(dicts, [float(one) for one in coefficients])["w"].flatten().double()
    columns = zip(*(one["w"].double().flatten().tolist() for one in dicts), strict=True)
    for found, column in zip(result.tolist(), columns, strict=True):
        exact = sum((c * Fraction(value) for c, value in zip(coefficients, column, strict=True)), Fraction(0))
        size = sum(abs(c) * abs(Fraction(value)) for c, value in zip(coefficients, column, strict=True))
        if dtype in TABLES:
            largest = TABLES[dtype].max().item()
            if abs(exact) <= largest and float(exact) == exact:
                assert found == nearest(exact, TABLES[dtype], dtype)
        else:
            eps = Fraction(torch.finfo(dtype).eps)
            assert abs(Fraction(found) - exact) <= eps * abs(exact) + Fraction(2) ** -50 * size + Fraction(2) ** -149


@given(st.data(), st.sampled_from(INTEGERS))
def test_integers_are_those_of_one_member(data: st.DataObject, dtype: torch.dtype) -> None:
    count = data.draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    tensors = [torch.randint(0, 2, (4,), generator=generator).to(dtype) for _ in range(count)]
    coefficients = data.draw(st.lists(st.floats(-2, 2), min_size=count, max_size=count))
    result = average([{"n": tensor} for tensor in tensors], coefficients)["n"]
    assert torch.equal(result, tensors[coefficients.index(max(coefficients))])
    assert result.dtype == dtype


@given(st.data(), DTYPES)
def test_inner_products_are_those_of_float64(data: st.DataObject, dtype: torch.dtype) -> None:
    dicts = members(data, dtype)
    rows = torch.stack([one["w"].double().flatten() for one in dicts])
    size = (rows.abs() @ rows.abs().T).max() if rows.numel() else 0.0
    torch.testing.assert_close(inner_products(dicts)["w"], rows @ rows.T, rtol=1e-12, atol=1e-12 * float(size))


@given(st.floats(allow_nan=False), st.sampled_from([one for one in FLOATS if one in TABLES]))
def test_any_number_is_rounded_to_the_nearest(number: float, dtype: torch.dtype) -> None:
    values = TABLES[dtype]
    found = float(narrow(torch.tensor([number], dtype=torch.float64), dtype).double())
    if abs(number) <= float(values.max()):
        assert found == nearest(Fraction(number), values, dtype)
    else:  # what is beyond the largest number is torch's affair
        torch.testing.assert_close(torch.tensor(found), torch.tensor(number).to(dtype).float(), equal_nan=True)


NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(".".join)


@given(st.lists(NAMES, min_size=1, max_size=6, unique=True), NAMES, st.sampled_from(["added", "removed", "same"]))
def test_names_that_differ_by_a_prefix_find_one_another(names: list[str], prefix: str, change: str) -> None:
    """Whatever rule is found, it maps each name to one of the module's, and no two to one."""
    own = [f"{prefix}.{name}" for name in names] if change == "removed" else names
    of_module = [f"{prefix}.{name}" for name in names] if change == "added" else names
    found = fit(own, of_module)
    assert set(found.names) == set(own)
    assert len(set(found.names.values())) == len(own)
    if not found.rule.startswith("no rule"):
        assert set(found.names.values()) <= set(of_module)
    back = fit(list(found.names.values()), list(found.names.values()))
    assert back.names == {name: name for name in found.names.values()}


@pytest.mark.parametrize("dtype", list(TABLES), ids=str)
def test_numbers_that_a_dtype_has_stay_as_they_are(dtype: torch.dtype) -> None:
    assert torch.equal(narrow(TABLES[dtype], dtype).double(), TABLES[dtype])
