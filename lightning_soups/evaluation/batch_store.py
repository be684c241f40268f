"""Batches kept in memory, as rows that can be grouped anew where that is possible."""

import copy
import pickle
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# The public alternative, apply_to_collection of lightning-utilities, rebuilds but does not flatten.
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten


class BatchStore:
    """Keeps copies of the batches of one dataloader.

    As long as every batch is a structure of tensors of shape (rows, ...) that differ in the number of rows only, all
    rows are kept in one tensor per leaf and :meth:`take` can group them anew. Other batches are kept one by one.

    Args:
        device: Where to keep tensors.
        expected_rows: How many rows are to come, to allocate them at once; a guess may be wrong.
        pin: Whether to keep them in pinned memory, from which copies to an accelerator are faster.
    """

    def __init__(self, device: torch.device, expected_rows: int = 0, pin: bool = False) -> None:
        self._device = device
        self._expected_rows = expected_rows
        self._pin = pin
        self._spec: TreeSpec | None = None
        self._pool: list[Tensor] | None = []
        self._ends: list[int] = []
        self._batches: list[Any] = []
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._batches) if self._pool is None else len(self._ends)

    @property
    def rows(self) -> int | None:
        """How many rows can be taken; None when the batches cannot be grouped anew."""
        if self._pool is None or not self._ends:
            return None
        return self._ends[-1]

    def append(self, batch: Any) -> None:
        """Keep a copy of a batch."""
        self.nbytes += bytes_of(batch)
        # ordinary tensors, whatever mode the loop runs in: inference tensors could not be written to later
        with torch.inference_mode(False), torch.no_grad():
            if self._pool is not None and not self._append_rows(batch):
                self._batches = [self[index] for index in range(len(self._ends))]
                self._pool = None
            if self._pool is None:
                self._batches.append(_copy(batch, self._device))

    def __getitem__(self, index: int) -> Any:
        """A copy of a batch, so that a step may work on it in place."""
        if self._pool is None:
            return _copy(self._batches[index], self._device)
        start = self._ends[index - 1] if index else 0
        return self._build([leaf[start : self._ends[index]].clone() for leaf in self._pool])

    def take(self, rows: Sequence[int]) -> Any:
        """A new batch of the given rows, counted from the first row of the first batch, in the given order."""
        assert self._pool is not None
        index = torch.tensor(rows, device=self._device)
        return self._build([leaf.index_select(0, index) for leaf in self._pool])

    def _build(self, leaves: list[Tensor]) -> Any:
        assert self._spec is not None
        return tree_unflatten(leaves, self._spec)

    def _append_rows(self, batch: Any) -> bool:
        """Keep a batch as rows; False when it has none or they differ from those before."""
        leaves, spec = tree_flatten(batch)
        if not leaves or not all(_is_plain(leaf) and leaf.ndim for leaf in leaves):
            return False
        count = len(leaves[0])
        if any(len(leaf) != count for leaf in leaves):
            return False
        if self._spec is None:
            self._spec = spec
            self._pool = [self._allocate(leaf, max(count, self._expected_rows)) for leaf in leaves]
        assert self._pool is not None
        alike = zip(leaves, self._pool, strict=False)
        if spec != self._spec or any(one.shape[1:] != all_.shape[1:] or one.dtype != all_.dtype for one, all_ in alike):
            return False
        start = self._ends[-1] if self._ends else 0
        if start + count > len(self._pool[0]):
            grown = [self._allocate(leaf, max(start + count, 2 * start)) for leaf in self._pool]
            for new, old in zip(grown, self._pool, strict=True):
                new[:start].copy_(old[:start])
            self._pool = grown
        for leaf, pool in zip(leaves, self._pool, strict=True):
            pool[start : start + count].copy_(leaf)
        self._ends.append(start + count)
        return True

    def _allocate(self, like: Tensor, rows: int) -> Tensor:
        return torch.empty((rows, *like.shape[1:]), dtype=like.dtype, device=self._device, pin_memory=self._pin)


def bytes_of(batch: Any) -> int:
    """How much memory a batch takes; what is not a tensor is measured pickled."""
    leaves, _ = tree_flatten(batch)
    return sum(leaf.nbytes if _is_plain(leaf) else len(pickle.dumps(leaf)) for leaf in leaves)


def same_batch(first: Any, second: Any) -> bool:
    """Whether two batches hold the same values, NaN counting as equal to NaN."""
    (leaves, spec), (others, other_spec) = tree_flatten(first), tree_flatten(second)
    return spec == other_spec and all(_same_leaf(a, b) for a, b in zip(leaves, others, strict=True))


def _same_leaf(first: Any, second: Any) -> bool:
    if not (_is_plain(first) and _is_plain(second)):
        return type(first) is type(second) and pickle.dumps(first) == pickle.dumps(second)
    first, second = first.cpu(), second.cpu()
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return bool(((first == second) | ((first != first) & (second != second))).all())


def _is_plain(leaf: Any) -> bool:
    """Whether a leaf is a tensor and nothing else: no subclass, no attributes, not sparse or nested."""
    return type(leaf) is Tensor and not leaf.__dict__ and leaf.layout == torch.strided and not leaf.is_nested


def _copy(batch: Any, device: torch.device) -> Any:
    def copied(leaf: Any) -> Any:
        return leaf.detach().to(device, copy=True) if _is_plain(leaf) else copy.deepcopy(leaf)

    return tree_map(copied, batch)
