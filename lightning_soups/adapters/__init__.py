"""Adapters as ingredients: which module they are of, what mixtures of them are, and how a soup becomes an adapter."""

from lightning_soups.adapters.adapted import AdaptedModule
from lightning_soups.adapters.choice import AdapterAverage, adapted_module, validate_adapters
from lightning_soups.adapters.output import write_adapter
from lightning_soups.adapters.updates import AdapterUpdates

__all__ = [
    "AdaptedModule",
    "AdapterAverage",
    "AdapterUpdates",
    "adapted_module",
    "validate_adapters",
    "write_adapter",
]
