"""What a module logs in a step, as it logs it: with its graph, before Lightning averages it over batches."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningModule


class LogSpy:
    """Notes what a module's steps pass to ``self.log``; ``log_dict`` goes through it, too.

    Args:
        module: The module to listen to.

    Attributes:
        values: What was logged last, by name.
        batch_sizes: How many samples a value was said to be the mean of, by name, where that was said.
    """

    def __init__(self, module: LightningModule) -> None:
        self._module = module
        self.values: dict[str, Any] = {}
        self.batch_sizes: dict[str, int] = {}

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Listen while the block runs."""
        original = self._module.log

        def log(name: str, value: Any, *args: Any, **kwargs: Any) -> None:
            self.values[name] = value
            if kwargs.get("batch_size") is not None:
                self.batch_sizes[name] = kwargs["batch_size"]
            original(name, value, *args, **kwargs)

        vars(self._module)["log"] = log  # nn.Module's own __setattr__ has nothing to do with functions
        try:
            yield
        finally:
            del vars(self._module)["log"]
