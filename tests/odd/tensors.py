"""Tensors that checkpoints may hold although nobody can average them."""

from collections.abc import Callable

import torch
from torch import Tensor


def _packed(name: str) -> Callable[[], Tensor]:
    return lambda: torch.arange(4, dtype=torch.uint8).view(getattr(torch, name))


REFUSED: dict[str, tuple[Callable[[], Tensor], str]] = {
    "sparse COO": (lambda: torch.eye(3).to_sparse(), r"torch.float32, not dense but torch.sparse_coo.*to_dense"),
    "sparse CSR": (lambda: torch.eye(3).to_sparse_csr(), r"torch.float32, not dense but torch.sparse_csr.*to_dense"),
    "sparse integers": (lambda: torch.eye(3, dtype=torch.int64).to_sparse(), r"torch.int64, not dense.*to_dense"),
    "quantized": (
        lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
        r"torch.qint8, quantized.*dequantize",
    ),
    "quantized by channel": (
        lambda: torch.quantize_per_channel(torch.ones(4, 3), torch.ones(4), torch.zeros(4), 0, torch.qint8),
        r"torch.qint8, quantized.*dequantize",
    ),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "a nested tensor"),
    "without values": (lambda: torch.empty(3, device="meta"), "on the meta device, so it has no values"),
}
if hasattr(torch, "float8_e8m0fnu"):
    REFUSED["scales"] = (lambda: torch.ones(4).to(torch.float8_e8m0fnu), "torch.float8_e8m0fnu, the scales of weights")
for _name in ("float4_e2m1fn_x2", "uint4", "int4", "uint1"):
    if hasattr(torch, _name):
        REFUSED[_name] = (_packed(_name), f"torch.{_name}, several numbers packed into a byte")
