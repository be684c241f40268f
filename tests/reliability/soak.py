"""Records and cooks over and over in one process, and watches what a process can run out of.

    python -m tests.reliability.soak --minutes 5 --json_path soak.json

All recipes and formats come in turn. After the first cycles, open files, threads, processes, mapped files and temporary
files must be exactly as many after every cycle; memory may not grow. Prints a table; exits with 1 when they do.
"""

import contextlib
import ctypes
import gc
import io
import itertools
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from lightning_soups import Soup
from tests.reliability import victims
from tests.reliability.reading import readable
from tests.reliability.samples import valid
from tests.reliability.victims import Cooking, Fit

_WARM_UP = 3  # cycles
_MOST_KIB = 40.0  # that memory may grow by in a cycle, in the long run: less than any checkpoint that would be kept
_ENOUGH = 15  # cycles from which on memory is judged
_FITS = (Fit(epochs=2, top_k=-1, run="a"), Fit(lr=0.1, epochs=2, run="b"))
_OUTPUTS = ("soup.ckpt", "soup.pt", "soup.safetensors", "soup")


def cycle(root: Path, number: int) -> None:
    """Record two runs; cook with every recipe, each time into another format; read everything.

    Args:
        root: A folder that is empty before and after.
        number: Decides which module is trained, and which recipe is saved in which format.
    """
    module = ("plain", "normalized")[number % 2]
    soups = root / "soups"
    for case in _FITS:
        victims.fit(Fit(case.lr, module, case.top_k, case.epochs, case.run), soups, root / "told", root / case.run)
    for shift, recipe in enumerate(victims.recipes()):
        output = _OUTPUTS[(number // 2 + shift) % len(_OUTPUTS)]
        victims.cook(Cooking(recipe, output, module), soups, root / "work")
        valid(Soup.load(soups / "soups" / output).state_dict())
    if wrong := readable(soups):
        raise RuntimeError(wrong)
    shutil.rmtree(root)
    root.mkdir()


def watched(root: Path) -> dict[str, int]:
    """What must not grow: how many there are at this moment."""
    gc.collect()
    maps = Path("/proc/self/maps").read_text().splitlines()
    children = [Path(task, "children").read_text().split() for task in Path("/proc/self/task").iterdir()]
    files = [path for path in Path(tempfile.gettempdir()).rglob("*") if root not in path.parents and path != root]
    return {
        "open files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "child processes": sum(map(len, children)),
        "mapped checkpoints": sum(str(root) in line for line in maps),
        "temporary files": len(files),
    }


def memory() -> float:
    """KiB in use, after what can be given back has been."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1024


def slope(values: Sequence[float]) -> float:
    """The median of the slopes between all pairs of points, which outliers do not sway (Theil and Sen)."""
    pairs = itertools.combinations(enumerate(values), 2)
    return statistics.median((later - earlier) / (j - i) for (i, earlier), (j, later) in pairs)


def soak(minutes: float, cycles: int) -> dict[str, Any]:
    """Run cycles; see :func:`main`.

    Returns:
        Counts, and what was violated.
    """
    scratch = Path(os.path.realpath(tempfile.mkdtemp(prefix="soak-")))
    os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)
    root = scratch / "root"
    root.mkdir()
    until = time.monotonic() + 60 * minutes
    counts: list[dict[str, int]] = []
    used: list[float] = []
    for number in itertools.count():
        if number >= _WARM_UP + cycles if cycles else time.monotonic() > until and len(counts) > 1:
            break
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            cycle(root, number)
        if number >= _WARM_UP - 1:
            counts.append(watched(root))
            used.append(memory())
    first = counts[0]
    violations = [
        f"{name}: {first[name]} at first, {max(later)} later"
        for name in first
        if max(later := [one[name] for one in counts]) > first[name]
    ]
    growth = slope(used[len(used) // 4 :]) if len(used) >= _ENOUGH else None
    if growth is not None and growth > _MOST_KIB:
        violations.append(f"memory grows by {growth:.1f} KiB in a cycle")
    made = len(counts) + _WARM_UP - 1
    result: dict[str, Any] = {
        "cycles": made,
        "fits": made * len(_FITS),
        "cooks": made * len(victims.recipes()),
        "at first": first,
        "at last": counts[-1],
        "memory in MiB at first, at last": [round(used[0] / 1024, 1), round(used[-1] / 1024, 1)],
        "growth in KiB a cycle": None if growth is None else round(growth, 2),
        "violations": violations,
    }
    shutil.rmtree(scratch, ignore_errors=True)
    return result


def main(minutes: float = 5.0, cycles: int = 0, json_path: str | None = None) -> None:
    """Run.

    Args:
        minutes: How long.
        cycles: How many cycles instead; memory is judged from 15 on.
        json_path: A file to write the results to.
    """
    result = soak(minutes, cycles)
    if json_path is not None:
        Path(json_path).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print("| watched | at first | at last |\n| --- | ---: | ---: |")
    for name, count in result["at first"].items():
        print(f"| {name} | {count} | {result['at last'][name]} |")
    before, after = result["memory in MiB at first, at last"]
    print(f"| memory, MiB | {before} | {after} |")
    grown = f"memory grows by {result['growth in KiB a cycle']} KiB a cycle, "
    print(f"\n{result['cycles']} cycles, {result['fits']} fits, {result['cooks']} cooks, {grown}", end="")
    print(f"{len(result['violations'])} violations", *result["violations"], sep="\n")
    sys.exit(bool(result["violations"]))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    auto_cli(main)
