"""Every kind of tensor is averaged as its dtype allows, rounded once, or refused by its name."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_soups import GreedySoup, Ingredients, LearnedSoup, ModelStock, Soup, SoupTrainer, UniformSoup, WiseFT
from lightning_soups.mixing import Mixer
from lightning_soups.mixture import Mixture
from lightning_soups.weights import (
    RunningSum,
    WeightNames,
    average,
    average_checkpoints,
    fingerprint,
    inner_products,
    read_checkpoint,
)
from lightning_soups.weights.averaging import write_average
from lightning_soups.weights.geometry import dots
from lightning_soups.weights.kinds import same_bytes
from lightning_soups.weights.tied import tied_names
from tests.helpers import Blobs, Classifier, record, trainer
from tests.odd.nearest import rounded, values_of
from tests.odd.tensors import REFUSED

NARROW = [
    *(torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
]


def running(state_dicts: list[dict[str, Any]]) -> None:
    sums = RunningSum()
    sums.add(state_dicts[0])
    sums.write_mean_with(state_dicts[1], {"w": torch.zeros(3)})


WAYS: dict[str, Callable[[list[dict[str, Any]]], object]] = {
    "average": lambda dicts: average(dicts, [0.5, 0.5]),
    "a copy": lambda dicts: average(dicts[:1], [1.0]),
    "write_average": lambda dicts: write_average({"w": torch.zeros(3)}, dicts, [0.25, 0.75]),
    "RunningSum": running,
    "inner_products": inner_products,
    "dots": lambda dicts: dots({"w": torch.zeros(3)}, dicts),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("way", WAYS)
def test_what_cannot_be_averaged_is_refused_by_name(way: str, kind: str) -> None:
    make, message = REFUSED[kind]
    with pytest.raises(ValueError, match=rf"(?s)w: .*{message.split(', ', 1)[-1]}.*exclude"):
        WAYS[way]([{"w": make()}, {"w": make()}])


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_averaged_does_not_break_what_only_looks(kind: str) -> None:
    """A run that trains with such a buffer is recorded all the same."""
    tensor = REFUSED[kind][0]()
    assert len(fingerprint({"w": tensor, "v": torch.ones(1)})) == 16
    assert tied_names({"w": tensor, "v": tensor}) in ({}, {"v": "w"})


@pytest.mark.parametrize("kind", ["sparse COO", "quantized", "scales", "float4_e2m1fn_x2"])
def test_files_with_such_tensors_are_refused_with_their_path(tmp_path: Path, kind: str) -> None:
    if kind not in REFUSED:
        pytest.skip("this torch has no such dtype")
    make, message = REFUSED[kind]
    paths = [tmp_path / f"{index}.ckpt" for index in range(2)]
    for path in paths:
        torch.save({"state_dict": {"w": make(), "v": torch.ones(1)}, "global_step": 1}, path)
    with pytest.raises(ValueError, match=f"w: {message}"):
        average_checkpoints(paths)
    found = Ingredients.load(paths)
    with pytest.raises(ValueError, match=rf"(?s)ingredient '.*0.ckpt' holds.*w: {message}"):
        Mixer().mix(Mixture.uniform(found))
    mixed = Mixer(selection=WeightNames(exclude=["w"])).mix(Mixture.uniform(found))
    assert mixed["state_dict"].keys() == {"v"}


def test_packed_parameters_of_quantized_modules_are_not_taken_for_extra_state() -> None:
    """They are tuples: one ingredient's would be taken as they are, beside scales that are averaged."""
    packed = (REFUSED["quantized"][0](), None)
    with pytest.raises(ValueError, match=r"_packed_params: torch\.qint8, quantized"):
        average([{"fc.scale": torch.ones(1), "fc._packed_params": packed}] * 2, [0.5, 0.5])


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_narrow_dtypes_are_rounded_once(dtype: torch.dtype) -> None:
    """Next to ties, where rounding to float32 on the way gives the wrong neighbor."""
    numbers = values_of(dtype)
    at = torch.linspace(0, len(numbers) - 2, 60).long()
    ties = (numbers[at] + numbers[at + 1]) / 2
    exact = torch.cat([ties, *(ties * (1 + sign * 2.0**-40) for sign in (-1, 1))])
    members = [{"w": exact.to(torch.float64)}, {"w": torch.zeros_like(exact)}]
    out = {"w": torch.empty(exact.shape, dtype=dtype)}
    like = [{"w": torch.zeros(exact.shape, dtype=dtype)}, *members]
    result = average(like, [1.0, 1.0, 1.0])["w"]
    assert result.dtype == dtype
    assert torch.equal(result.double(), rounded(exact, dtype))
    assert not torch.equal(exact.to(dtype).double(), rounded(exact, dtype)), "torch's own way would have done"
    sums = RunningSum()
    sums.add(members[0])
    sums.write_mean_with(members[1], out, like=like[0])
    assert torch.equal(out["w"].double(), rounded(exact / 2, dtype))


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_special_numbers_survive(dtype: torch.dtype) -> None:
    special = torch.tensor([math.nan, 0.0, -0.0, 1.0]).to(dtype)
    result = average([{"w": special}] * 3, [1 / 3] * 3)["w"]
    assert same_bytes(result, special) or (result[0].isnan() and same_bytes(result[1:], special[1:]))


@pytest.mark.parametrize("dtype", [torch.complex32, torch.complex64, torch.complex128], ids=str)
def test_complex_numbers_and_their_conjugates(dtype: torch.dtype) -> None:
    first, second = (torch.complex(*torch.randn(2, 5)).to(dtype) for _ in range(2))
    result = average([{"w": first.conj()}, {"w": second}], [0.5, 0.5])["w"]
    exact = (first.to(torch.complex128).conj() + second.to(torch.complex128)) / 2
    tolerance = {torch.complex32: 1e-3, torch.complex64: 1e-7}.get(dtype, 1e-15)
    torch.testing.assert_close(result.to(torch.complex128), exact, rtol=tolerance, atol=tolerance)
    assert result.dtype == dtype
    assert not result.is_conj()
    assert fingerprint({"w": first.conj()}) == fingerprint({"w": first.conj().resolve_conj()})


def test_members_of_other_precision_are_rounded_to_the_first_ones_dtype_in_memory_as_on_disk() -> None:
    dicts = [{"w": torch.randn(500).to(dtype)} for dtype in (torch.float16, torch.float32, torch.bfloat16)]
    sums, live = RunningSum(), {"w": torch.empty(500)}
    sums.add(dicts[1])
    sums.add(dicts[0])
    sums.write_mean_with(dicts[2], live, like=dicts[0])
    assert torch.equal(live["w"], average(dicts, [1 / 3] * 3)["w"].float())


def with_buffer(make: Callable[[], Tensor], persistent: bool = True) -> Classifier:
    module = Classifier()
    module.register_buffer("odd", make(), persistent)
    return module


def cook(directory: Path, module: Classifier, **arguments: Any) -> Soup:
    defaults = {"datamodule": Blobs(), "ingredients": directory, "output": directory / "s.ckpt"}
    return trainer(SoupTrainer).cook(module, **{**defaults, **arguments})


def copies(directory: Path, module: Classifier, values: Mapping[str, Tensor] | None = None) -> None:
    """Three ingredients that differ in one bias."""
    for index in range(3):
        state_dict = {**module.state_dict(), "net.2.bias": torch.tensor([0.1, 0.2, 0.3]) * index, **(values or {})}
        (directory / f"run-{index}").mkdir(parents=True)
        torch.save({"state_dict": state_dict, "global_step": index}, directory / f"run-{index}" / "best.ckpt")


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".safetensors"])
@pytest.mark.parametrize(
    "dtype",
    [*(torch.float64, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2), torch.uint16, torch.uint64],
    ids=str,
)
def test_soups_with_tensors_of_any_dtype(tmp_path: Path, dtype: torch.dtype, suffix: str) -> None:
    module = with_buffer(lambda: torch.tensor([1.0, 2.0, 3.0]).to(dtype))
    copies(tmp_path, module)
    soup = cook(
        module=module,
        directory=tmp_path,
        ingredients=str(tmp_path / "run-*/best.ckpt"),
        monitor="val_acc",
        mode="max",
        recipe=UniformSoup(),
        output=tmp_path / f"soup{suffix}",
    )
    assert same_bytes(Soup.load(soup.path).state_dict()["odd"], module.odd)


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("kind", ["sparse COO", "sparse CSR", "quantized by channel", "float4_e2m1fn_x2", "uint4"])
def test_modules_with_buffers_that_cannot_be_averaged(tmp_path: Path, kind: str, persistent: bool) -> None:
    """Buffers that are not saved are no one's business; saved ones can be left out."""
    if kind not in REFUSED or (kind == "uint4" and persistent):
        pytest.skip("this torch has no such dtype, or cannot save it")
    make, message = REFUSED[kind]
    module = with_buffer(make, persistent)
    before = module.odd
    copies(tmp_path, module)
    arguments: dict[str, Any] = {"ingredients": str(tmp_path / "run-*/best.ckpt"), "monitor": "val_acc", "mode": "max"}
    if persistent:
        with pytest.raises(ValueError, match=f"odd: {message}"):
            cook(tmp_path, module, **arguments)
        arguments["weights"] = WeightNames(exclude=["odd"])
    for recipe in (GreedySoup(), UniformSoup()):
        soup = cook(tmp_path, module, recipe=recipe, **arguments)
        assert ("odd" in soup.state_dict()) == persistent
    assert module.odd is before
    if kind == "sparse COO" and persistent:
        with pytest.raises(ValueError, match=r"cannot be saved in the safetensors format.*as \.ckpt or \.pt"):
            cook(tmp_path, module, output=tmp_path / "s.safetensors", **arguments)


def test_a_buffer_that_is_expanded_cannot_be_loaded_and_the_module_comes_back(tmp_path: Path) -> None:
    module = with_buffer(lambda: torch.ones(1, 3).expand(4, 3))
    copies(tmp_path, module)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(Exception, match=r"single memory location"):
        cook(tmp_path, module, ingredients=str(tmp_path / "run-*/best.ckpt"), monitor="val_acc", mode="max")
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert module.training


def test_runs_in_other_precision_are_mixed_with_a_warning(tmp_path: Path) -> None:
    record(tmp_path, [0.1, 0.5, 1.0])
    first = Ingredients.load(tmp_path)[0].path
    checkpoint = read_checkpoint(first)
    narrow = {name: tensor.bfloat16() for name, tensor in checkpoint["state_dict"].items()}
    torch.save({**checkpoint, "state_dict": narrow}, first)
    first.with_suffix(".json").unlink()  # which has the hash of what was there
    with pytest.warns(UserWarning, match="dtypes: 2 in float32, 1 in bfloat16"):
        soup = cook(tmp_path, Classifier(), recipe=UniformSoup(), ingredients=f"{tmp_path}/runs/*/*.ckpt")
    assert {tensor.dtype for tensor in soup.state_dict().values()} == {torch.bfloat16}


@pytest.mark.parametrize("recipe", [ModelStock(), LearnedSoup(steps=2), WiseFT()], ids=lambda one: one.name)
def test_recipes_refuse_them_too(tmp_path: Path, recipe: Any) -> None:
    make, message = REFUSED["sparse COO"]
    module = with_buffer(make)
    copies(tmp_path, module)
    ingredients = Ingredients.load(str(tmp_path / "run-*/best.ckpt"), tmp_path / "run-0" / "best.ckpt")
    with pytest.raises(ValueError, match=f"odd: {message}"):
        cook(tmp_path, module, recipe=recipe, ingredients=ingredients, monitor="val_acc", mode="max")
