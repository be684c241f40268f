"""Pure tensor functions: reading checkpoints safely, averaging them, comparing them. Imports torch only."""

from lightning_soups.weights.averaging import average, average_checkpoints
from lightning_soups.weights.fingerprint import fingerprint
from lightning_soups.weights.geometry import angles, cosines, dots, gram_of_checkpoints, inner_products
from lightning_soups.weights.reading import read_checkpoint
from lightning_soups.weights.running_sum import RunningSum

__all__ = [
    "RunningSum",
    "angles",
    "average",
    "average_checkpoints",
    "cosines",
    "dots",
    "fingerprint",
    "gram_of_checkpoints",
    "inner_products",
    "read_checkpoint",
]
