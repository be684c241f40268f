"""Pure tensor functions: read checkpoints safely, average and compare them. Imports only torch and safetensors."""

from lightning_soups.weights.averaging import average, average_checkpoints
from lightning_soups.weights.fingerprint import fingerprint
from lightning_soups.weights.formats.distributed import consolidate, is_distributed, read_rest
from lightning_soups.weights.geometry import angles, cosines, dots, gram_of_checkpoints, inner_products
from lightning_soups.weights.names import Fit, WeightNames, canonical, fit
from lightning_soups.weights.reading import is_checkpoint_folder, read_checkpoint, weight_files
from lightning_soups.weights.running_sum import RunningSum

__all__ = [
    "Fit",
    "RunningSum",
    "WeightNames",
    "angles",
    "average",
    "average_checkpoints",
    "canonical",
    "consolidate",
    "cosines",
    "dots",
    "fingerprint",
    "fit",
    "gram_of_checkpoints",
    "inner_products",
    "is_checkpoint_folder",
    "is_distributed",
    "read_checkpoint",
    "read_rest",
    "weight_files",
]
