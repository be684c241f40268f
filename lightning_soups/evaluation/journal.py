"""What a cook has found out so far, on disk: one that was interrupted continues where it was."""

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import Strategy
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn

from lightning_soups.evaluation.journal_lines import digest, read_lines, read_states, written
from lightning_soups.files import append_durably, replacing, write_json
from lightning_soups.ingredient import Ingredient
from lightning_soups.mixture import Mixture
from lightning_soups.paths import AnyPath


@dataclass(frozen=True)
class Finding:
    """A finished evaluation, as the journal holds it.

    Args:
        value: The monitored metric; of a candidate that was rejected early the best that it could have reached.
        mode: Its direction.
        metrics: Every metric that was logged; None of a candidate that was rejected early.
        batches: Batches that the answer took.
        samples: Samples that it took.
        seconds: Wall time that it took.
    """

    value: float
    mode: str
    metrics: dict[str, float] | None
    batches: int
    samples: int
    seconds: float


def journal_of(output: AnyPath) -> AnyPath:
    """Where the journal of what makes an output is; globs do not match it."""
    return output.with_name(f".{output.name}.journal")


def forget_journal(output: AnyPath) -> None:
    """What makes an output has succeeded: delete its journal, if there is one."""
    _delete(journal_of(output))


class Journal:
    """A file with one line for each finished evaluation, which is on the disk as soon as it is known.

    What a recipe saves of itself, such as an optimizer's state, is in a file beside it that is replaced every time.

    A line is only found again by the same question: about a mixture of ingredients with the same content (not only the
    same names), in the same *context*, which is all else that an answer depends on. A line that was torn when its
    writer died, or is damaged, counts as not there. Rank zero reads and writes; all processes are told the same.

    Every process must call the methods, at the same points.

    Args:
        path: The file. At a URL it is replaced as a whole for every line.
        strategy: Tells the other processes what rank zero has read.
        content: Says what an ingredient holds, see :func:`~lightning_soups.content.content_hash`; called on rank zero.

    Attributes:
        is_left: Whether there is a journal of a cook that was interrupted.
        resumes: Whether that was in the same context, so that some of it can be used.
        caveats: What that cook had found about its scores.
    """

    def __init__(self, path: AnyPath, strategy: Strategy, content: Callable[[Ingredient], str]) -> None:
        self._path = path
        self._strategy = strategy
        self._content = content
        self._lines: list[dict[str, Any]] = read_lines(path) if strategy.is_global_zero else []
        self._context: str | None = None
        self._found: dict[str, Finding] = {}
        self._state_path = _state_of(path)
        self._states: dict[str, Any] = {}
        self._writes = True
        self._ask_context: Callable[[], Mapping[str, str]] = dict
        self.resumes = False
        self.caveats: list[str] = []
        left = strategy.is_global_zero and (any("found" in line for line in self._lines) or self._state_path.exists())
        self.is_left = strategy.broadcast(left)

    def begin(self, context: Callable[[], Mapping[str, str]]) -> None:
        """Say what answers depend on, besides the mixture; what is known already can be asked for then.

        Args:
            context: What that is called, and texts that change with it. To know the held-out data it has to be read,
                which a pass does anyway; so without an interrupted cook this is called with the first answer only.
        """
        self._ask_context, self._context = context, None
        self._found, self._states, self.resumes = {}, {}, False
        if self.is_left:
            self._begin()

    def _begin(self) -> None:
        context = self._ask_context()
        self._context = name = digest(json.dumps(context, sort_keys=True))
        if self._strategy.is_global_zero:
            for line in self._lines:
                if line.get("context") == name:
                    self._take_up(line)
            self._states = read_states(self._state_path, name)
            if self._found or self._states:
                rank_zero_info(f"Resuming from {str(self._path)!r}: {len(self._found)} evaluations are known already.")
            elif self.is_left:
                rank_zero_info(f"{str(self._path)!r} is not resumed from, {self._what_is_new(context)}.")
            self._write({"context": name, "of": dict(context)})
        if self.is_left:
            resumes = bool(self._found or self._states)
            self.resumes, self.caveats = self._strategy.broadcast((resumes, self.caveats))

    def recall(self, mixture: Mixture, kind: str = "") -> Finding | None:
        """What is known of a mixture from before the interruption; None when that is nothing.

        Args:
            mixture: What is asked about.
            kind: What tells several evaluations of one mixture apart.
        """
        if not self.resumes:
            return None
        own = self._found.get(self._key(mixture, kind)) if self._strategy.is_global_zero else None
        return self._strategy.broadcast(own)

    def note(self, mixture: Mixture, finding: Finding, kind: str = "") -> None:
        """Keep a finished evaluation. See :meth:`recall`."""
        if self._context is None:
            self._begin()
        if self._strategy.is_global_zero:
            self._write({"context": self._context, "key": self._key(mixture, kind), "found": vars(finding)})

    def withdraw_rejections(self, caveat: str) -> None:
        """Forget which candidates were rejected early, and why that was wrong."""
        self._found = {key: one for key, one in self._found.items() if one.metrics is not None}
        if self._strategy.is_global_zero:
            self._write({"context": self._context, "withdrawn": caveat})

    def load_state(self, key: str, about: Iterable[Ingredient]) -> dict[str, Any] | None:
        """What a recipe saved last of itself; None when there is nothing.

        Args:
            key: Tells it from other recipes.
            about: The ingredients that it chooses from; what was saved for others, by their content, is not found.
        """
        if not self.resumes:
            return None
        own = self._states.get(self._state_key(key, about)) if self._strategy.is_global_zero else None
        return self._strategy.broadcast(own)

    def save_state(self, key: str, about: Iterable[Ingredient], state: Mapping[str, Any]) -> None:
        """Replace what was saved before. See :meth:`load_state`."""
        if self._context is None:
            self._begin()
        if self._strategy.is_global_zero:
            self._states[self._state_key(key, about)] = state
            content = {"context": self._context, "states": self._states}
            self._try_to_write(lambda: write_json(self._state_path, content))

    def forget(self) -> None:
        """The soup is saved: nothing of this is needed any more."""
        if self._strategy.is_global_zero:
            _delete(self._path)

    def say_what_is_left(self) -> None:
        """After an interruption: tell how to continue."""
        kept = sum("found" in line for line in self._lines)
        if self._strategy.is_global_zero and self._writes and (kept or self._states):
            rank_zero_info(f"{kept} finished evaluations are kept in {str(self._path)!r}: the same cook resumes there.")

    def _take_up(self, line: Mapping[str, Any]) -> None:
        if "found" in line:
            with suppress(KeyError, TypeError):  # of another version
                self._found[line["key"]] = Finding(**line["found"])
        elif "withdrawn" in line:
            self._found = {key: one for key, one in self._found.items() if one.metrics is not None}
            self.caveats.append(str(line["withdrawn"]))

    def _what_is_new(self, context: Mapping[str, str]) -> str:
        before = [line["of"] for line in self._lines if "of" in line]
        new = [what for what, text in context.items() if before and before[-1].get(what) != text]
        return "for this has changed since: " + ", ".join(new) if new else "for it is of something else"

    def _key(self, mixture: Mixture, kind: str) -> str:
        """Members in the order in which they are summed, by what they hold; the bits of a mixture depend on no more."""
        members = sorted(mixture, key=lambda member: member.place)
        content = [self._content(member) for member in members]
        coefficients = [mixture.coefficients[member].hex() for member in members]
        layers = {layer: [own[member].hex() for member in members] for layer, own in sorted(mixture.layers.items())}
        return digest(json.dumps([kind, content, coefficients, layers]))

    def _state_key(self, key: str, about: Iterable[Ingredient]) -> str:
        return digest(json.dumps([key, [self._content(one) for one in about]]))

    def _write(self, line: dict[str, Any]) -> None:
        self._lines.append(line)
        self._try_to_write(lambda: self._write_line(line))

    def _write_line(self, line: Mapping[str, Any]) -> None:
        if isinstance(self._path, Path):
            append_durably(self._path, written(line))
        else:
            with replacing(self._path) as temporary:
                temporary.write_bytes(b"".join(map(written, self._lines)))

    def _try_to_write(self, write: Callable[[], None]) -> None:
        if not self._writes:
            return
        try:
            write()
        except OSError as error:
            self._writes = False
            rank_zero_warn(
                f"The journal {str(self._path)!r} cannot be written: {error}. The cook goes on, but what it finds out"
                " from now on would be lost if it were interrupted."
            )


def _state_of(path: AnyPath) -> AnyPath:
    return path.with_name(f"{path.name}.state")


def _delete(path: AnyPath) -> None:
    for one in (_state_of(path), path):
        one.unlink(missing_ok=True)
