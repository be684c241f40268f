"""The kernel against whole-tensor float64 arithmetic, in every dtype and layout."""

from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_soups.weights import RunningSum, average, chunks

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64]
SHAPES = [(), (0,), (3, 0), (1,), (7, 5), (3, 1, 11), (1, 70_000, 2)]


def weighted(tensors: list[Tensor], coefficients: list[float]) -> Tensor:
    wide = torch.complex128 if tensors[0].is_complex() else torch.float64
    total = torch.zeros(tensors[0].shape, dtype=wide)
    for tensor, coefficient in zip(tensors, coefficients, strict=True):
        total += coefficient * tensor.to(wide)
    return total.to(tensors[0].dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [2, 9])
def test_uniform_and_weighted_averages_of_any_shape(dtype: torch.dtype, shape: tuple[int, ...], count: int) -> None:
    tensors = [torch.randn(shape).to(dtype) for _ in range(count)]
    uniform = average([{"w": tensor} for tensor in tensors], [1 / count] * count)["w"]
    mean = torch.stack(tensors).to(torch.complex128 if dtype.is_complex else torch.float64).mean(0)
    # torch's own conversion rounds to float32 on the way, see tests/odd for an exact reference
    loose = {torch.float64: 1e-14, torch.float16: 2**-10, torch.bfloat16: 2**-7}.get(dtype, 0)
    exact = {"rtol": loose, "atol": loose}
    torch.testing.assert_close(uniform, mean.to(dtype), **exact)
    coefficients = [(-1) ** index / 2**index for index in range(count)]  # products are exact
    mixed = average([{"w": tensor} for tensor in tensors], coefficients)["w"]
    torch.testing.assert_close(mixed, weighted(tensors, coefficients), **exact)


@pytest.mark.parametrize("threads", [1, 3])
def test_tensors_of_many_pieces_on_any_number_of_threads(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        tensors = [torch.randn(1000, 1003) for _ in range(5)]
        small = [torch.randn(3) for _ in range(5)]
        dicts = [{"w": w, **{f"b{i}": b + i for i in range(200)}} for w, b in zip(tensors, small, strict=True)]
        result = average(dicts, [0.2] * 5)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for name in dicts[0]:
        assert torch.equal(result[name], torch.stack([d[name] for d in dicts]).double().mean(0).float())


def test_strides_do_not_matter() -> None:
    with mock.patch.object(chunks, "_PIECE", 64):
        for make in (lambda t: t.mT, lambda t: t[:, ::2], lambda t: t.expand(3, *t.shape), lambda t: t[:1]):
            first, second = make(torch.randn(41, 200)), make(torch.randn(41, 200))
            result = average([{"w": first}, {"w": second.contiguous()}], [0.5, 0.5])["w"]
            assert torch.equal(result, ((first.double() + second.double()) / 2).float())
            assert result.is_contiguous()


def test_equal_coefficients_give_the_same_bits_in_any_order() -> None:
    tensors = [torch.randn(1000) for _ in range(7)]
    results = [
        average([{"w": tensor} for tensor in order], [1 / 7] * 7)["w"]
        for order in (tensors, tensors[::-1], tensors[3:] + tensors[:3])
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@given(st.data())
def test_any_dtypes_shapes_and_coefficients(data: st.DataObject) -> None:
    dtypes = data.draw(st.lists(st.sampled_from(DTYPES), min_size=1, max_size=4))
    shapes = [tuple(data.draw(st.lists(st.integers(0, 9), max_size=3))) for _ in dtypes]
    count = data.draw(st.integers(1, 12))
    coefficients = data.draw(st.lists(st.floats(-4, 4), min_size=count, max_size=count))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**16)))
    dicts = [
        {
            str(name): torch.randn(shape, generator=generator).to(dtype)
            for name, (dtype, shape) in enumerate(zip(dtypes, shapes, strict=True))
        }
        for _ in range(count)
    ]
    with mock.patch.object(chunks, "_PIECE", data.draw(st.sampled_from([16, 64, 1 << 16]))):
        result = average(dicts, coefficients)
        uniform = average(dicts, [1 / count] * count)
        running = RunningSum()
        for member in dicts[:-1]:
            running.add(member)
        out = {name: torch.empty_like(tensor) for name, tensor in dicts[-1].items()}
        running.write_mean_with(dicts[-1], out)
    for name, first in dicts[0].items():
        tensors = [member[name] for member in dicts]
        size = sum(abs(c) * t.abs().to(torch.float64) for c, t in zip(coefficients, tensors, strict=True))
        bits = torch.finfo(first.dtype)
        off = (result[name] - weighted(tensors, coefficients)).abs()
        assert (off <= bits.eps * size + bits.tiny).all()
        assert result[name].dtype == first.dtype
        if first.dtype != torch.float64:
            assert torch.equal(out[name], uniform[name])
