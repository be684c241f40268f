"""Updates of LoRA adapters against float64 products of whole matrices."""

import pytest
import torch
from torch import Tensor

from lightning_soups.weights.adapter_names import FactorName, factor_name, other_method, paired
from lightning_soups.weights.adapters import Factors, merged, summed_adapter, update


def factors(rank: int, seed: int, out: int = 5, into: tuple[int, ...] = (7,), dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, *into, generator=generator).to(dtype)
    b = torch.randn(out, rank, *(1 for _ in into[1:]), generator=generator).to(dtype)
    return Factors(a, b, 0.5 + seed)


def product(one: Factors) -> Tensor:
    return one.scaling * torch.einsum("or,ri->oi", one.b.double(), one.a.double())


def test_an_update_is_the_scaled_product() -> None:
    one = factors(3, seed=1)
    assert update(one).dtype == torch.float64
    torch.testing.assert_close(update(one), product(one), rtol=1e-14, atol=0)
    torch.testing.assert_close(update(one, transposed=True), product(one).T, rtol=1e-14, atol=0)
    rows = Factors(one.a, one.b, one.scaling, embedding=True)
    torch.testing.assert_close(update(rows), product(one).T, rtol=1e-14, atol=0)


def test_the_update_of_a_convolution_is_what_its_two_convolutions_do() -> None:
    one = factors(2, seed=1, out=4, into=(3, 3, 2))
    image = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    through = torch.nn.functional.conv2d(torch.nn.functional.conv2d(image, one.a.double()), one.b.double())
    torch.testing.assert_close(torch.nn.functional.conv2d(image, update(one)), one.scaling * through)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merged_weight_is_the_float64_sum_rounded_once(dtype: torch.dtype) -> None:
    base = torch.randn(5, 7).to(dtype)
    parts = [factors(rank, seed, dtype=dtype) for rank, seed in ((2, 1), (4, 2), (1, 3))]
    coefficients = [0.5, 0.25, -1.5]
    exact = base.double() + sum(c * product(one) for c, one in zip(coefficients, parts, strict=True))
    before = base.clone()
    result = merged(base, parts, coefficients)
    assert result.dtype == dtype
    assert torch.equal(base, before)
    assert torch.equal(result, exact.to(dtype))
    assert torch.equal(merged(base.T.contiguous(), parts, coefficients, transposed=True), exact.T.to(dtype))
    assert torch.equal(merged(base, [], []), base)


def test_the_summed_adapter_is_exact_and_the_mean_of_the_factors_is_not() -> None:
    parts = [factors(2, seed) for seed in (1, 2, 3)]
    exact = sum(product(one) for one in parts) / 3
    one = summed_adapter(parts, [1 / 3] * 3)
    assert one.a.shape == (6, 7)
    assert one.b.shape == (5, 6)
    assert one.scaling == 1.0
    torch.testing.assert_close(update(one), exact, rtol=1e-5, atol=1e-6)
    apart = Factors(sum(p.a for p in parts) / 3, sum(p.b for p in parts) / 3, sum(p.scaling for p in parts) / 3)
    assert (update(apart) - exact).norm() > 0.3 * exact.norm()


def test_a_summed_adapter_of_half_precision_is_not_rounded_to_it() -> None:
    parts = [factors(2, seed, dtype=torch.bfloat16) for seed in (1, 2)]
    one = summed_adapter(parts, [0.3, 0.7])
    assert one.a.dtype == one.b.dtype == torch.float32
    torch.testing.assert_close(update(one), 0.3 * product(parts[0]) + 0.7 * product(parts[1]), rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_is_refused_with_its_shapes() -> None:
    with pytest.raises(ValueError, match=r"A \(3, 7\) and B \(5, 2\)"):
        update(Factors(torch.zeros(3, 7), torch.zeros(5, 2), 1.0))
    with pytest.raises(ValueError, match=r"\(5, 7\) and the weight that it adapts \(7, 5\)"):
        merged(torch.zeros(7, 5), [factors(2, 1)], [1.0])
    with pytest.raises(ValueError, match=r"\(4, 7\), \(5, 7\)"):
        summed_adapter([factors(2, 1), factors(2, 1, out=4)], [1.0, 1.0])
    with pytest.raises(ValueError, match="got 1 for 0"):
        summed_adapter([], [1.0])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.b.lora_A.weight", FactorName("a.b", "A", None, False)),
        ("a.b.lora_B.default.weight", FactorName("a.b", "B", "default", False)),
        ("e.lora_embedding_A", FactorName("e", "A", None, True)),
        ("e.lora_embedding_B.mine", FactorName("e", "B", "mine", True)),
        ("a.base_layer.weight", None),
        ("a.lora_B.default.bias", None),
    ],
)
def test_factors_are_known_by_their_names(name: str, expected: FactorName | None) -> None:
    assert factor_name(name) == expected


def test_factors_come_in_pairs_of_one_adapter() -> None:
    tensors = {"x.lora_A.weight": torch.zeros(1, 2), "x.lora_B.weight": torch.zeros(3, 1), "head.weight": torch.ones(1)}
    pairs, others = paired(tensors)
    assert pairs.keys() == {"x"}
    assert pairs["x"].a is tensors["x.lora_A.weight"]
    assert others.keys() == {"head.weight"}
    with pytest.raises(ValueError, match="'x' has no LoRA factor 'B'"):
        paired({"x.lora_A.weight": torch.zeros(1, 2)})
    with pytest.raises(ValueError, match=r"several adapters, \['one', 'two'\]"):
        paired({f"x.lora_A.{name}.weight": torch.zeros(1, 2) for name in ("one", "two")})


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("x.lora_magnitude_vector.default.weight", "DoRA"),
        ("x.hada_w1_a.default", "LoHa"),
        ("x.lokr_w1.default", "LoKr"),
        ("x.lora_E.default", "AdaLoRA"),
        ("x.lora_B.default.bias", "LoRA with lora_bias"),
        ("x.lora_A.default.weight", None),
        ("soft_Regions.bias", None),
    ],
)
def test_other_methods_are_named(name: str, method: str | None) -> None:
    assert other_method({name: torch.zeros(1)}) == method
