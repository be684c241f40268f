"""Pure tensor functions: reading checkpoints safely, averaging them, telling them apart. Imports torch only."""

from lightning_soups.weights.averaging import average
from lightning_soups.weights.fingerprint import fingerprint
from lightning_soups.weights.reading import read_checkpoint

__all__ = ["average", "fingerprint", "read_checkpoint"]
