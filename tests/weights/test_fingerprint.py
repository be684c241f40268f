import torch

from lightning_soups.weights import fingerprint


def test_it_depends_on_content_and_on_nothing_else() -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    same = fingerprint({"a": weight, "b": torch.tensor(True)})
    assert same == fingerprint({"b": torch.tensor(True), "a": weight.t().contiguous().t(), "extra": "state"})
    assert len(same) == 16
    others = [
        {"a": weight + 1e-7 * weight.max(), "b": torch.tensor(True)},
        {"a": weight, "b": torch.tensor(False)},
        {"a": weight.reshape(3, 2), "b": torch.tensor(True)},
        {"a": weight.double(), "b": torch.tensor(True)},
        {"c": weight, "b": torch.tensor(True)},
        {"a": weight},
    ]
    assert len({fingerprint(other) for other in others} | {same}) == len(others) + 1


def test_every_dtype_and_shape() -> None:
    tensors = [torch.zeros(0), torch.tensor(1.5, dtype=torch.bfloat16), torch.tensor(2, dtype=torch.int8)]
    assert len({fingerprint({"t": tensor}) for tensor in tensors}) == 3


def test_a_single_number_may_have_any_stride() -> None:
    every_65th = torch.arange(65.0)[::65]
    assert every_65th.stride() == (65,)
    assert fingerprint({"a": every_65th}) == fingerprint({"a": torch.tensor([0.0])})
