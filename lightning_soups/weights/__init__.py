"""Pure tensor functions: reading checkpoints safely, averaging them, telling them apart. Imports torch only."""

from lightning_soups.weights.averaging import average, average_checkpoints
from lightning_soups.weights.fingerprint import fingerprint
from lightning_soups.weights.reading import read_checkpoint
from lightning_soups.weights.running_sum import RunningSum

__all__ = ["RunningSum", "average", "average_checkpoints", "fingerprint", "read_checkpoint"]
