"""A short name for the content of a state dict, to tell whether two runs started from the same weights."""

import hashlib
from collections.abc import Mapping

from torch import Tensor

from lightning_soups.weights.kinds import as_bytes, is_in_memory


def fingerprint(state_dict: Mapping[str, object]) -> str:
    """Hash names, dtypes, shapes and bytes of all tensors, whatever device they are on and in whatever order.

    Of tensors that are not bytes in memory (sparse, quantized, without values) the name and dtype alone count.

    Args:
        state_dict: Names and tensors; entries that are not tensors (extra state) are left out.

    Returns:
        The first 16 hexadecimal digits of a SHA-256: enough to tell initializations apart, not a security promise.
    """
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name]
        if isinstance(tensor, Tensor):
            if not is_in_memory(tensor):  # a constant, most likely: a sparse matrix, say
                digest.update(f"{name}\0{tensor.dtype}\0".encode())
                continue
            digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
            digest.update(as_bytes(tensor.cpu()).numpy().data)
    return digest.hexdigest()[:16]
