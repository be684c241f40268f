"""Short texts that change with batches or tensors."""

import pickle
from typing import Any

import torch
import xxhash
from torch import Tensor
from torch.utils._pytree import tree_flatten


class Digest:
    """Grows with everything it is given; two that were given the same, in the same order, read the same.

    It tells data that changed by accident, at the speed of memory (XXH3, 128 bits); it is no protection from anybody
    who wants it to stay the same.
    """

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()

    def update(self, value: Any) -> None:
        """Add a batch, a tensor, or any structure of them."""
        leaves, structure = tree_flatten(value)
        self._hash.update(repr(structure).encode())
        for leaf in leaves:
            self._add(leaf)

    def _add(self, leaf: Any) -> None:
        if isinstance(leaf, Tensor):
            own = leaf.to_local() if hasattr(leaf, "to_local") else leaf  # a shard of a distributed one
            try:
                content = own.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
                self._hash.update(f"{leaf.dtype}{tuple(own.shape)}".encode())
                self._hash.update(content.numpy().data)
                return
            except RuntimeError:  # sparse, nested or quantized
                pass
        try:
            self._hash.update(pickle.dumps(leaf))
        except Exception:  # objects of users, which fail in any way there is
            self._hash.update(type(leaf).__qualname__.encode())

    def __str__(self) -> str:
        return self._hash.hexdigest()
