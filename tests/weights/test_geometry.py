"""Against float64 arithmetic on whole flattened vectors, and vectors whose angles are known."""

import math
import subprocess
import sys
import textwrap
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_soups.weights import angles, cosines, dots, geometry, gram_of_checkpoints, inner_products

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64]
EXACT = {"rtol": 1e-13, "atol": 1e-13}
small_blocks = mock.patch.object(geometry, "_BLOCK", 64)


def vectors(tensors: list[Tensor], origin: Tensor | None = None) -> Tensor:
    """The rows that the products are of: float64, real and imaginary parts side by side."""
    wide = torch.complex128 if tensors[0].is_complex() else torch.float64
    stacked = torch.stack([tensor.to(wide) for tensor in tensors])
    if origin is not None:
        stacked = stacked - origin.to(wide)
    parts = torch.stack([stacked.real, stacked.imag]) if stacked.is_complex() else stacked[None]
    return parts.movedim(0, -1).reshape(len(tensors), parts[:, 0].numel())


def reference(tensors: list[Tensor], origin: Tensor | None = None) -> Tensor:
    rows = vectors(tensors, origin)
    return torch.tensor([[math.fsum((a * b).tolist()) for b in rows] for a in rows], dtype=torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    block=st.sampled_from([1, 64, geometry._BLOCK]),
    shape=st.lists(st.integers(0, 6), max_size=3),
    count=st.integers(1, 5),
    layout=st.sampled_from(["plain", "transposed", "one of them strided"]),
    seed=st.integers(0, 1000),
)
def test_products_of_any_shape_dtype_layout_and_piece(
    dtype: torch.dtype, block: int, shape: list[int], count: int, layout: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    draws = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3 * (count + 2))]
    tensors = [(a + 1j * b if dtype.is_complex else a).to(dtype) for a, b in zip(draws[::3], draws[1::3], strict=True)]
    if layout == "transposed":
        tensors = [tensor.permute(tuple(reversed(range(tensor.ndim)))) for tensor in tensors]
    elif layout == "one of them strided":
        tensors[0] = torch.stack([tensors[0], tensors[1]], dim=-1)[..., 0]
    *members, origin, direction = tensors
    state_dicts = [{"w": member} for member in members]
    with mock.patch.object(geometry, "_BLOCK", block):
        plain = inner_products(state_dicts)["w"]
        moved = inner_products(state_dicts, {"w": origin})["w"]
        along = dots({"w": direction}, state_dicts)["w"]
    assert (plain.dtype, plain.shape, along.dtype, along.shape) == (torch.float64, (count,) * 2, plain.dtype, (count,))
    assert torch.equal(moved, moved.T)
    torch.testing.assert_close(plain, reference(members), **EXACT)
    torch.testing.assert_close(moved, reference(members, origin), **EXACT)
    torch.testing.assert_close(along, vectors(members) @ vectors([direction])[0], **EXACT)


def test_the_default_pieces_of_a_large_tensor() -> None:
    tensors = [torch.randn(3, 200_003) for _ in range(7)]
    direction = torch.randn(3, 200_003)
    rows = vectors(tensors, tensors[0])
    state_dicts = [{"w": tensor} for tensor in tensors]
    gram = inner_products(state_dicts, state_dicts[0])["w"]
    torch.testing.assert_close(gram, rows @ rows.T, rtol=1e-12, atol=1e-9)
    along = dots({"w": direction}, state_dicts)["w"]
    torch.testing.assert_close(along, vectors(tensors) @ direction.double().flatten(), rtol=1e-12, atol=1e-9)


def test_small_differences_survive_since_the_origin_is_subtracted_in_float64() -> None:
    origin = torch.tensor([1000.0, 0.5])
    member = {"w": origin.to(torch.float64) + torch.tensor([1e-9, 0.0], dtype=torch.float64)}
    gram = inner_products([member], {"w": origin})["w"]
    torch.testing.assert_close(gram.sqrt().item(), (member["w"][0] - 1000).item(), rtol=1e-12, atol=0)


def test_a_conjugated_view_counts_as_its_numbers() -> None:
    first, second = torch.randn(2, 5, dtype=torch.complex128)
    gram = inner_products([{"w": first}, {"w": second.conj()}])["w"]
    assert gram[0, 1].item() == pytest.approx((first * second).sum().real.item())


def test_only_numbers_are_measured_and_tensors_that_need_gradients_are_too() -> None:
    def state_dict(value: float) -> dict[str, object]:
        weight = torch.nn.Parameter(torch.full((2,), value))
        return {"steps": torch.tensor(3), "w": weight, "mask": torch.tensor([True]), "_extra_state": {"version": 1}}

    result = inner_products([state_dict(1.0), state_dict(2.0)])
    assert list(result) == ["w"]
    assert result["w"].tolist() == [[2, 4], [4, 8]]
    assert not result["w"].requires_grad


def test_tied_tensors_count_once_where_all_state_dicts_tie_them() -> None:
    def tied(value: float) -> dict[str, Tensor]:
        weight = torch.full((2, 2), value)
        return {"embedding": weight, "head": weight, "transposed": weight.T, "other": weight.clone()}

    untied = {name: tensor.clone() for name, tensor in tied(0.0).items()}
    assert list(inner_products([tied(1.0), tied(2.0)])) == ["embedding", "transposed", "other"]
    assert list(inner_products([tied(1.0), tied(2.0)], tied(0.0))) == ["embedding", "transposed", "other"]
    assert list(inner_products([tied(1.0), tied(2.0)], names=["other", "head"])) == ["head", "other"]
    assert len(inner_products([tied(1.0), untied])) == 4
    assert len(inner_products([tied(1.0), tied(2.0)], untied)) == 4


def test_names_choose_what_must_fit() -> None:
    first = {"body": torch.ones(3), "head": torch.ones(2), "steps": torch.tensor(1)}
    second = {"body": torch.ones(3), "head": torch.ones(5)}
    with pytest.raises(ValueError, match=r"(?s)Checkpoint 1 does not fit checkpoint 0.*steps: only in the first"):
        inner_products([first, second])
    with pytest.raises(ValueError, match=r"(?s)Checkpoint 0 does not fit the origin.*head: shape \(5,\) against \(2,"):
        inner_products([first], second)
    assert inner_products([first, second], second, names=iter(["body"]))["body"].tolist() == [[0, 0], [0, 0]]
    with pytest.raises(ValueError, match=r"\['nothing', 'steps'\]"):
        inner_products([first, second], names=["steps", "nothing", "body"])
    with pytest.raises(ValueError, match="body: only in the first"):
        inner_products([first, {}], names=["body"])
    with pytest.raises(ValueError, match="at least one checkpoint"):
        inner_products([])


def test_directions_that_do_not_fit_are_refused() -> None:
    state_dict = {"w": torch.ones(3), "n": torch.tensor(1)}
    assert dots({}, [state_dict]) == {}
    assert dots({"w": torch.arange(3).bfloat16()}, [state_dict, state_dict])["w"].tolist() == [3, 3]
    with pytest.raises(ValueError, match=r"(?s)Checkpoint 1.*w: only in the first"):
        dots({"w": torch.ones(3)}, [state_dict, {}])
    with pytest.raises(ValueError, match=r"w: shape \(2,\) against \(3,\)"):
        dots({"w": torch.ones(2)}, [state_dict])
    with pytest.raises(ValueError, match=r"w: dtype torch\.complex64 against torch\.float32"):
        dots({"w": torch.ones(3, dtype=torch.complex64)}, [state_dict])
    with pytest.raises(ValueError, match=r"no floating-point or complex tensors.*\['n'\]"):
        dots({"n": torch.tensor(1)}, [state_dict])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_a_direction_on_an_accelerator() -> None:
    direction, weight = torch.randn(2, 300_000)
    expected = (direction.double() @ weight.double()).item()
    assert dots({"w": direction.cuda()}, [{"w": weight}])["w"].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("release", [True, False])
def test_what_has_been_read_is_released_once(release: bool) -> None:
    released: list[int] = []
    state_dicts = [{"w": torch.randn(100)} for _ in range(3)]
    report = (lambda tensor: released.append(tensor.numel())) if release else None
    with small_blocks:
        inner_products(state_dicts, state_dicts[0], release=report)
        dots(state_dicts[0], state_dicts, report)
    assert sum(released) == (800 if release else 0)


def test_files_give_the_same_products_as_their_state_dicts(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    paths = [tmp_path / f"{index}.ckpt" for index in range(4)]
    for path in paths:
        weight = torch.randn(500_000, generator=generator)
        state_dict = {"w": weight, "tied": weight, "b": torch.randn(7, generator=generator).half()}
        torch.save({"state_dict": {**state_dict, "steps": torch.tensor(5)}}, path)
    origin, *members = [torch.load(path, weights_only=True)["state_dict"] for path in paths]
    result = gram_of_checkpoints(paths[1:], paths[0])
    assert list(result) == ["w", "b"]
    for name, gram in result.items():
        rows = vectors([member[name] for member in members], origin[name])
        torch.testing.assert_close(gram, rows @ rows.T, rtol=1e-12, atol=1e-8)
    plain = gram_of_checkpoints([str(path) for path in paths[1:]], names=["b"])
    torch.testing.assert_close(plain, {"b": reference([member["b"] for member in members])}, **EXACT)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ckpt"):
        gram_of_checkpoints(paths, tmp_path / "nowhere.ckpt")
    with pytest.raises(ValueError, match="at least one checkpoint"):
        gram_of_checkpoints([])


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux says what is resident")
def test_memory_does_not_grow_with_the_number_of_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "large.ckpt"
    torch.save({"state_dict": {str(index): torch.randn(500_000) for index in range(20)}}, path)
    program = """
        import re, sys
        from pathlib import Path
        from lightning_soups.weights import gram_of_checkpoints

        def resident(key):
            return 1024 * int(re.search(key + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

        before = resident("VmRSS")
        for count in (4, 24):
            gram_of_checkpoints(sys.argv[1:] * count, sys.argv[1])
            print(resident("VmHWM") - before)
    """
    arguments = [sys.executable, "-c", textwrap.dedent(program), path]
    few, many = map(int, subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.split())
    assert many - few < 0.2 * path.stat().st_size


def test_angles_that_are_known() -> None:
    rows = torch.tensor([[1.0, 0, 0], [0, 2, 0], [3, 3, 0], [-5, 0, 0], [1, 0, 0], [1, math.sqrt(3), 0]])
    origin = torch.tensor([0.5, -7.0, 2.0])
    gram = inner_products([{"w": row.double() + origin} for row in rows], {"w": origin})["w"]
    expected = [[0, 90, 45, 180, 0, 60], [90, 0, 45, 90, 90, 30]]
    torch.testing.assert_close(angles(gram)[:2], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=2e-6)
    assert angles(gram).diagonal().eq(0).all()
    assert cosines(gram)[0, 1].item() == pytest.approx(0, abs=1e-15)


@given(
    rows=st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3).filter(any), min_size=2, max_size=5),
    scale=st.sampled_from([1e-100, 1.0, 1e100]),
)
def test_cosines_are_those_of_the_vectors(rows: list[list[float]], scale: float) -> None:
    vectors = scale * torch.tensor(rows, dtype=torch.float64)
    result = cosines(vectors @ vectors.T)
    assert result.diagonal().eq(1).all()
    assert result.abs().max() <= 1
    unit = vectors / torch.tensor([math.hypot(*row) for row in vectors.tolist()], dtype=torch.float64)[:, None]
    torch.testing.assert_close(result, unit @ unit.T, rtol=0, atol=1e-13)


def test_vectors_without_a_direction_have_no_angles() -> None:
    vectors = torch.tensor([[1.0, 2.0], [0.0, 0.0], [2.0, 4.0]])
    for result, same in ((cosines(vectors @ vectors.T), 1.0), (angles(vectors @ vectors.T), 0.0)):
        assert result.dtype == torch.float64
        assert result[1].isnan().all()
        assert result[:, 1].isnan().all()
        torch.testing.assert_close(result[0, [0, 2]].tolist(), [same, same], rtol=0, atol=2e-6)
    with pytest.raises(ValueError, match=r"square matrix, got the shape \(2, 3\)"):
        cosines(torch.ones(2, 3))
