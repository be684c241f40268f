"""Feeds damaged files to everything that reads: it reads, or says in one error what is wrong with which path.

    python -m tests.reliability.fuzz --cases 2000 --seed 0 --json_path fuzz.json

Never may it raise anything else, crash, hang, take much memory, run code from the file, or start or open something.
Prints a table; exits with 1 when anything was violated. A case can be run again alone: ``--only lightning --first 137
--cases 1``.
"""

import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from tests.reliability import processes
from tests.reliability.mutations import mutate
from tests.reliability.samples import Sample, prepare, samples

_BATCH = 250  # cases a process
_MEMORY = 2 << 30  # bytes of address space that a process may take besides what it begins with
_MOST = 64 << 10  # KiB that the memory in use may grow by in one case; the files have less than 20
_SECONDS = 20.0  # of the processor, for one case
_FORBIDDEN = (
    "subprocess.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "os.spawn",
    "socket.",
    "ctypes.dlopen",
)
_OF_MEMORY = ("allocate", "MemoryError", "out of memory")


def try_case(sample: Sample, intact: Path, folder: Path, seed: str) -> tuple[list[str], str]:
    """Damage one file and read.

    Args:
        sample: The kind.
        intact: An intact one.
        folder: Where to make the damaged one.
        seed: Decides how.

    Returns:
        What was violated, and how it ended: ``read`` or ``refused``.
    """
    chance = random.Random(seed)
    shutil.copytree(intact, folder)
    file = chance.choice(sorted(path for path in folder.glob(sample.damaged) if path.is_file()))
    file.write_bytes(mutate(chance, file.name, file.read_bytes()))
    found, end = [], "read"
    for reader in sample.readers:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        problem, refused = _problem(reader, folder)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        if grown > _MOST:
            problem = f"memory grew by {grown >> 10} MiB"
        if problem:
            found.append(f"{file.name}: {problem}")
        if refused:
            end = "refused"
    shutil.rmtree(folder)
    return found, end


def _problem(reader: Callable[[Path], Any], folder: Path) -> tuple[str, bool]:
    try:
        reader(folder)
    except (ValueError, FileNotFoundError) as error:
        text = str(error)
        if any(word in text for word in _OF_MEMORY):
            return f"memory was asked for before it was known to be needed: {text}", True
        return ("" if str(folder) in text else f"does not say which path: {type(error).__name__}: {text}"), True
    except BaseException as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})", True
    return "", False


class _Batch:
    """Some cases in one process, which tells of each as it ends."""

    def __init__(self, kind: str, intact: Path, scratch: Path, seed: int, told: Path) -> None:
        self._kind, self._intact, self._scratch, self._seed, self._told = kind, intact, scratch, seed, told

    def run(self, first: int, last: int) -> None:
        """Run cases; each has its time and all have their memory."""
        warnings.filterwarnings("ignore")
        sample = samples()[self._kind]
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        for reader in sample.readers:  # whatever is imported late is imported now
            reader(self._intact)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))
        forbidden: list[str] = []
        _guard(forbidden, self._scratch)
        with self._told.open("a", buffering=1) as told:
            for case in range(first, last):
                forbidden.clear()
                signal.setitimer(signal.ITIMER_PROF, _SECONDS)
                found, end = try_case(
                    sample, self._intact, self._scratch / f"case-{case}", f"{self._seed} {self._kind} {case}"
                )
                told.write(json.dumps([case, found + forbidden, end]) + "\n")
        signal.setitimer(signal.ITIMER_PROF, 0)


def _guard(found: list[str], scratch: Path) -> None:
    """Note what reading a file must never do."""
    known = {name.partition(".")[0] for name in sys.modules}

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(_FORBIDDEN):
            found.append(f"reading did {event} {arguments!r}"[:300])
        elif event == "import" and arguments[0].partition(".")[0] not in known:
            found.append(f"reading imported {arguments[0]}")
        elif event == "open" and isinstance(arguments[0], str) and isinstance(arguments[1], str):
            written = set(arguments[1]) & set("wax+")
            if written and not os.path.abspath(arguments[0]).startswith(tempfile.gettempdir()):
                found.append(f"reading wrote to {arguments[0]}")

    sys.addaudithook(audit)


def fuzz(kind: str, cases: int, seed: int, first: int, root: Path) -> tuple[Counter[str], list[dict[str, Any]]]:
    """Run the cases of one kind, as many processes as it takes.

    Returns:
        How cases ended, and the violations.
    """
    told, intact, scratch = root / "told", root / "intact", root / "cases"
    scratch.mkdir(parents=True)
    outcome = processes.run(prepare, samples()[kind], intact)
    if outcome.error:
        raise RuntimeError(outcome.error)
    batch = _Batch(kind, intact, scratch, seed, told)
    ends: Counter[str] = Counter()
    violations = []
    case = first
    while case < first + cases:
        told.write_text("")
        outcome = processes.run(batch.run, case, min(case + _BATCH, first + cases))
        lines = [json.loads(line) for line in told.read_text().splitlines()]
        for number, found, end in lines:
            ends[end] += 1
            violations += [{"kind": kind, "case": number, "violated": text} for text in found]
        case += len(lines)
        if outcome.error:
            violations.append({"kind": kind, "case": case, "violated": outcome.error})
            case += 1
            ends["died"] += 1
    return ends, violations


def main(
    cases: int = 2000, seed: int = 0, first: int = 0, only: str = "", json_path: str | None = None, show: int = 20
) -> None:
    """Run.

    Args:
        cases: How many of each kind.
        seed: Decides how files are damaged.
        first: Number of the first case.
        only: A text that the names of the kinds have in them; all by default.
        json_path: A file to write the results to.
        show: How many violations of a kind to print.
    """
    started = time.monotonic()
    root = Path(os.path.realpath(tempfile.mkdtemp(prefix="fuzz-")))
    os.environ["TMPDIR"] = tempfile.tempdir = str(root)
    os.environ["LIGHTNING_SOUPS_CACHE"] = str(root / "cache")
    by_kind: dict[str, dict[str, int]] = {}
    violations: list[dict[str, Any]] = []
    print("| kind | cases | read | refused | violations |\n| --- | ---: | ---: | ---: | ---: |")
    for number, kind in enumerate(name for name in samples() if only in name):
        ends, found = fuzz(kind, cases, seed, first, root / str(number))
        by_kind[kind] = {**ends, "violations": len(found)}
        violations += found
        print(f"| {kind} | {sum(ends.values())} | {ends['read']} | {ends['refused']} | {len(found)} |", flush=True)
        for one in found[:show]:
            print(json.dumps(one)[:1000], file=sys.stderr, flush=True)
    shutil.rmtree(root, ignore_errors=True)
    seconds = round(time.monotonic() - started)
    total = sum(sum(ends.values()) - ends["violations"] for ends in by_kind.values())
    if json_path is not None:
        result = {"seed": seed, "cases": total, "by kind": by_kind, "violations": violations, "seconds": seconds}
        Path(json_path).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"\n{total} cases, {len(violations)} violations, {seconds} s")
    sys.exit(bool(violations))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    auto_cli(main)
