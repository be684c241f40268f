"""Breaks the code on purpose, one promise at a time, and looks whether the checks notice.

    python -m tests.reliability.breaks --json_path breaks.json

Each break is a patch in a forked process. Prints a table; exits with 1 when one goes unnoticed.
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

import lightning_soups.callback as callback
import lightning_soups.evaluation.journal as journal
import lightning_soups.files as files
import lightning_soups.mixing as mixing
import lightning_soups.outputs.choosing as choosing
import lightning_soups.outputs.document as document
import lightning_soups.records as records
import lightning_soups.trainer as soup_trainer
import lightning_soups.weights.formats.torch_file as torch_file
from lightning_soups import SoupCallback
from lightning_soups.run_folder import RunFolder
from tests.reliability import processes
from tests.reliability.fuzz import fuzz
from tests.reliability.kills import kill_many
from tests.reliability.soak import soak

_kept: list[Any] = []


@dataclass(frozen=True)
class Break:
    """Something that is broken on purpose.

    Args:
        what: In words.
        patch: Breaks it.
        check: Gives what is violated then.
    """

    what: str
    patch: Callable[[], None]
    check: Callable[[int], list[Any]]


def kills(only: str, how: str = "", where: str = "", count: int = 16) -> Callable[[int], list[Any]]:
    """Check by killing one scenario's processes, at steps that the break is about."""
    return lambda seed: kill_many(count, seed, only=only, how=how, where=where, stop=True)["violations"]


def damaged(kind: str, cases: int = 400) -> Callable[[int], list[Any]]:
    """Check by damaging files of one kind."""

    def check(seed: int) -> list[Any]:
        root = Path(os.path.realpath(tempfile.mkdtemp(prefix="breaks-")))
        os.environ["TMPDIR"] = tempfile.tempdir = str(root)
        os.environ["LIGHTNING_SOUPS_CACHE"] = str(root / "cache")
        try:
            return fuzz(kind, cases, seed, 0, root / "fuzz")[1]
        finally:
            shutil.rmtree(root, ignore_errors=True)

    return check


def repeated(cycles: int = 2) -> Callable[[int], list[Any]]:
    """Check by recording and cooking over and over."""
    return lambda seed: soak(0, cycles)["violations"]


def breaks() -> list[Break]:
    """All of them."""
    recording, greedy = "record plain, save_top_k=2", "cook greedy, plain"
    return [
        Break("records are written before their checkpoints", _record_first, kills(recording, "step", "epoch=000")),
        Break("files are written in place", _in_place, kills(recording, "torn")),
        Break("files are not flushed", _set(files, sync_file=_nothing), kills(recording, "power", ".json")),
        Break("names are not flushed", _set(files, sync_folder=_nothing), kills(recording, "power", "epoch=002")),
        Break(
            "what is worse is deleted before what is better is recorded",
            _delete_first,
            kills(recording, "step", "epoch=002"),
        ),
        Break("checkpoints are deleted before their records", _checkpoint_first, kills(recording, "step", "remove")),
        Break("the recorded hash is another one", _other_hash, kills(recording, "step", "told", count=2)),
        Break("leftovers of dead writers stay", _leave, kills(recording, "torn", ".json")),
        Break(
            "checkpoints without a record stay",
            _set(RunFolder, discard_unrecorded=_nothing),
            kills(recording, "step", "remove runs"),
        ),
        Break("a resumed run records what it finds", _set(RunFolder, has_found=_no), kills(recording, "step", "told")),
        Break(
            "a folder is deleted before it is replaced",
            _set(files, exchange=_delete_and_rename),
            kills("cook uniform, plain, soup, over a soup", "step", "soup/"),
        ),
        Break("a journal's lines are not flushed", _set(journal, append_durably=_append), kills(greedy, "power")),
        Break("a journal's lines are kept for a while", _keep_lines, kills(greedy, "step")),
        Break("torn lines are not told from whole ones", _set(journal, read_lines=_read_all), kills(greedy, "torn")),
        Break("a journal is never read", _set(journal.Journal, recall=_nothing), kills(greedy, "step")),
        Break(
            "a recipe's state is not kept", _set(journal.Journal, load_state=_nothing), kills("cook learned", "step")
        ),
        Break("averages are made in float32", _in_float32, kills("cook uniform, plain, soup, over a soup", count=1)),
        Break(
            "the module is not put back", _set(soup_trainer, unchanged=contextlib.nullcontext), kills(greedy, "step")
        ),
        Break("pickles may name anything", _trust_pickles, damaged("old torch")),
        Break("JSON may be nested without end", _set(document, parse_json=_any_json), damaged("soup soup.pt", 1000)),
        Break("what a soup says of itself is believed", _believe_soups, damaged("soup soup.pt")),
        Break("checkpoints stay open", _keep_mixers, repeated()),
        Break("files stay open", _before_fits(lambda: _kept.append(open(os.devnull))), repeated()),
        Break(
            "threads stay", _before_fits(lambda: threading.Thread(target=threading.Event().wait).start()), repeated()
        ),
        Break("temporary folders stay", _before_fits(tempfile.mkdtemp), repeated()),
        Break("memory stays", _before_fits(lambda: _kept.append(os.urandom(50_000))), repeated(16)),
    ]


def _nothing(*args: Any, **kwargs: Any) -> None: ...


def _no(*args: Any, **kwargs: Any) -> bool:
    return False


def _set(place: Any, **values: Any) -> Callable[[], None]:
    def patch() -> None:
        for name, value in values.items():
            assert hasattr(place, name), name
            setattr(place, name, value)

    return patch


def _record_first() -> None:
    save, write = callback.save_validated_weights, records.write_record

    def save_elsewhere(trainer: Any, path: Path) -> Any:
        saved = save(trainer, path)
        path.rename(path.with_suffix(".later"))
        return saved

    def write_and_move(path: Path, record: Any) -> None:
        write(path, record)
        path.with_suffix(".later").rename(path.with_suffix(".ckpt"))

    callback.save_validated_weights, records.write_record = save_elsewhere, write_and_move


def _in_place() -> None:
    @contextlib.contextmanager
    def replacing_all(*paths: Path) -> Iterator[list[Path]]:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield list(paths)
        for path in paths:
            files.sync_file(path)

    files.replacing_all = replacing_all


def _delete_first() -> None:
    keep = RunFolder.keep

    def delete_first(self: Any, *args: Any) -> list[Path]:
        for worse in keep(self, *args):
            callback.withdraw(worse)
        return []

    RunFolder.keep = delete_first


def _checkpoint_first() -> None:
    def withdraw(checkpoint: Path) -> None:
        checkpoint.unlink()
        checkpoint.with_suffix(".json").unlink()

    callback.withdraw = withdraw


def _other_hash() -> None:
    save = callback.save_validated_weights
    callback.save_validated_weights = lambda *args: save(*args)._replace(sha256="0" * 64)


def _leave() -> None:
    callback.clean_soup_directory = files.clean = choosing.clean = _nothing


def _delete_and_rename(one: Path, other: Path) -> bool:
    shutil.rmtree(other)
    one.rename(other)
    return True


def _append(path: Path, line: bytes) -> None:
    with path.open("ab") as file:
        file.write(line)


def _keep_lines() -> None:
    append, waiting = journal.append_durably, []

    def keep(path: Path, line: bytes) -> None:
        waiting.append(line)
        if len(waiting) == 4:
            append(path, b"".join(waiting))
            waiting.clear()

    journal.append_durably = keep


def _read_all(path: Path) -> list[Any]:
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [json.loads(line.partition(b" ")[2]) for line in lines if line]


def _in_float32() -> None:
    def average(state_dicts: Any, coefficients: Any, *rest: Any) -> dict[str, Any]:
        def mean(name: str, first: Any) -> Any:
            if not first.is_floating_point():
                return first
            result = torch.zeros_like(first)
            for coefficient, one in zip(coefficients, state_dicts, strict=True):
                result += coefficient * one[name]
            return result

        return {name: mean(name, first) for name, first in state_dicts[0].items()}

    mixing.average = average


def _trust_pickles() -> None:
    load = torch.load
    torch_file.scan = torch_file.check_content = _nothing
    torch.load = wraps(load)(lambda *args, **kwargs: load(*args, **{**kwargs, "weights_only": False}))


def _any_json(text: str, hook: Any = None) -> Any:
    return json.loads(text, object_pairs_hook=hook)


def _believe_soups() -> None:
    import lightning_soups.soup as soup

    soup.check_provenance = _nothing


def _keep_mixers() -> None:
    make = mixing.Mixer.__init__

    def make_and_keep(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        _kept.append(self)

    mixing.Mixer.__init__ = make_and_keep


def _before_fits(action: Callable[[], Any]) -> Callable[[], None]:
    def patch() -> None:
        start = SoupCallback.on_fit_start

        def act_and_start(*args: Any) -> None:
            action()
            start(*args)

        SoupCallback.on_fit_start = act_and_start

    return patch


def _try(number: int, seed: int) -> list[Any]:
    own = breaks()[number]
    own.patch()
    try:
        return own.check(seed)
    except (AssertionError, RuntimeError) as error:  # an undisturbed process is checked as well
        return [str(error)]


def main(seed: int = 0, only: str = "", json_path: str | None = None) -> None:
    """Run.

    Args:
        seed: Of all checks.
        only: A text that the names of the breaks have in them; all by default.
        json_path: A file to write the results to.
    """
    noticed: dict[str, int] = {}
    examples: dict[str, str] = {}
    print("| broken on purpose | violations |\n| --- | ---: |")
    for number, own in enumerate(breaks()):
        if only not in own.what:
            continue
        outcome = processes.run(_try, number, seed, limit=1800.0)
        found = [outcome.error] if outcome.error else outcome.value
        noticed[own.what] = len(found)
        last = found[0] if found else ""
        examples[own.what] = (last["violated"] if isinstance(last, dict) else str(last))[-300:]
        print(f"| {own.what} | {len(found)} |", flush=True)
        print(f"    {examples[own.what]}", file=sys.stderr, flush=True)
    unnoticed = [what for what, count in noticed.items() if not count]
    if json_path is not None:
        result = {"seed": seed, "breaks": noticed, "examples": examples, "violations": unnoticed}
        Path(json_path).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"\n{len(noticed)} breaks, {len(unnoticed)} unnoticed{': ' if unnoticed else ''}{', '.join(unnoticed)}")
    sys.exit(bool(unnoticed))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    auto_cli(main)
