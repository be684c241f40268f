import pytest
import torch
from torch import Tensor

from lightning_soups.weights import RunningSum, average


def members(count: int, dtype: torch.dtype, numbers: int = 150_001) -> list[dict[str, Tensor]]:
    return [
        {"w": torch.randn(numbers).to(dtype), "m": torch.randn(5, 3).to(dtype).mT, "n": torch.tensor(index)}
        for index in range(count)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_growing_mean_has_the_bits_of_the_average(dtype: torch.dtype) -> None:
    dicts, sums = members(6, dtype), RunningSum()
    for index, member in enumerate(dicts):
        assert sums.count == index
        out = {"w": torch.empty_like(member["w"]), "m": torch.nn.Parameter(torch.empty(3, 5, dtype=dtype))}
        sums.write_mean_with(member, out)
        expected = average(dicts[: index + 1], [1 / (index + 1)] * (index + 1))
        assert torch.equal(out["w"], expected["w"])
        assert torch.equal(out["m"], expected["m"])
        sums.add(member)


def test_the_mean_is_rounded_to_the_checkpoints_dtype_and_then_cast() -> None:
    sums = RunningSum()
    sums.add({"w": torch.tensor([1.0], dtype=torch.bfloat16)})
    out = {"w": torch.zeros(1)}
    sums.write_mean_with({"w": torch.tensor([1 + 1 / 128], dtype=torch.bfloat16)}, out)
    assert out["w"].item() == 1.0  # in float32 the mean would be 1 + 1/256


def test_the_first_mean_is_a_copy_and_the_sums_are_their_own_memory() -> None:
    sums, out = RunningSum(), {"w": torch.zeros(2)}
    member = {"w": torch.tensor([0.1, -0.0], dtype=torch.float64)}
    sums.write_mean_with(member, out)
    assert torch.equal(out["w"], member["w"].float())
    sums.add(member)
    member["w"].zero_()
    sums.write_mean_with(member, out)
    assert out["w"].tolist() == pytest.approx([0.05, 0])
    sums.write_mean_with(member, out)  # asking changes nothing
    assert out["w"].tolist() == pytest.approx([0.05, 0])


def test_other_names_counters_and_extra_state_are_left_alone() -> None:
    sums = RunningSum()
    sums.add({"w": torch.ones(1), "c": torch.ones(1) * 1j, "n": torch.tensor(3), "extra": {"a": 1}})
    out = {"c": torch.zeros(1, dtype=torch.complex64), "n": torch.tensor(9)}
    sums.write_mean_with({"w": torch.ones(1), "c": torch.ones(1) * 3j, "n": torch.tensor(5)}, out)
    assert out["c"].item() == 2j
    assert out["n"].item() == 9


def test_what_does_not_fit_is_named_and_changes_nothing() -> None:
    sums, out = RunningSum(), {"w": torch.zeros(2), "v": torch.zeros(1)}
    sums.add({"w": torch.ones(2)})
    with pytest.raises(ValueError, match=r"lacks.*'w'"):
        sums.add({})
    with pytest.raises(ValueError, match="v is not among them"):
        sums.add({"w": torch.ones(2), "v": torch.ones(1)})
    with pytest.raises(ValueError, match=r"w has the shape \(1, 2\) and not \(2,\)"):
        sums.write_mean_with({"w": torch.ones(1, 2)}, out)
    with pytest.raises(ValueError, match=r"w has the shape \(1, 2\)"):
        sums.write_mean_with({"w": torch.ones(2)}, {"w": torch.zeros(1, 2)})
    assert sums.count == 1
    assert out["w"].tolist() == [0, 0]


@pytest.mark.parametrize("numbers", [10, 2_000_000])
@pytest.mark.parametrize("inside", [True, False])
def test_parameters_are_written_inside_and_outside_of_inference_mode(numbers: int, inside: bool) -> None:
    module = torch.nn.Linear(numbers, 1, bias=False)
    member = {"weight": torch.randn(1, numbers)}
    sums = RunningSum()
    with torch.inference_mode(inside):
        sums.add(member)
        sums.add(member)
        sums.write_mean_with(member, dict(module.named_parameters()))
        averaged = average([member] * 3, [1 / 3] * 3)["weight"]
    sums.write_mean_with(member, dict(module.named_parameters()))
    assert torch.equal(module.weight, member["weight"])
    assert torch.equal(averaged, member["weight"])
    assert module.weight.requires_grad
    module(torch.ones(numbers)).sum().backward()
    assert module.weight.grad is not None
