"""The next ingredient is read in the background while the current candidate is evaluated."""

import mmap
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from lightning_soups.ingredient import Ingredient
from lightning_soups.mixing import Mixer
from lightning_soups.weights.averaging import StateDict, whole


class Staging:
    """Reads ingredients, one ahead.

    Args:
        mixer: Opens ingredients.
        pin: Whether to put what is read ahead into pinned memory, for an accelerator. Otherwise its pages are read into
            the system's file cache, where a memory-mapped checkpoint finds them.

    Attributes:
        part: Takes the part of an ingredient that is read; all of it unless set.
    """

    def __init__(self, mixer: Mixer, pin: bool) -> None:
        self._mixer = mixer
        self._pin = pin
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lightning-soups-staging")
        self._next: tuple[Ingredient, Future[Mapping[str, Any]]] | None = None
        self.part: Callable[[StateDict], StateDict] = whole

    def __enter__(self) -> "Staging":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)

    def stage(self, ingredient: Ingredient) -> None:
        """Begin to read an ingredient; the one staged before is forgotten. Adapters are not worth it."""
        if not self._mixer.holds_weights:
            return
        if self._next is None or self._next[0] != ingredient:
            self._next = (ingredient, self._thread.submit(self._read, ingredient))

    def tensors(self, ingredient: Ingredient) -> Mapping[str, Any]:
        """The state dict of an ingredient, staged or read now.

        Raises:
            ValueError: It cannot be read safely, or does not fit those before it.
        """
        if self._next is not None and self._next[0] == ingredient:
            return self._next[1].result()
        return self.part(self._mixer.state_dict(ingredient))

    def wait(self) -> None:
        """Come back when nothing is being read: worker processes that are forked while a thread runs may hang."""
        if self._next is not None:
            wait([self._next[1]])

    def _read(self, ingredient: Ingredient) -> Mapping[str, Any]:
        state_dict = self.part(self._mixer.state_dict(ingredient))
        with torch.no_grad():
            return {name: self._ahead(value) for name, value in state_dict.items()}

    def _ahead(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.numel():
            return value
        if self._pin:
            return value.pin_memory()
        if value.is_contiguous():
            value.view(-1)[:: max(1, mmap.PAGESIZE // value.element_size())].clone()  # touches every page
        return value
