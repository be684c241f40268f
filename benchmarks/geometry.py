"""Measure inner products of checkpoint files against stacking them in float64: seconds, peak memory, agreement.

    python benchmarks/geometry.py --output geometry.json

Each measurement is a process of its own that starts from files in the page cache, and sides alternate. Memory is the
resident peak as the kernel counts it, mapped file pages included, above what the process held before; it is given as
a multiple of one checkpoint. The files go to a temporary folder, of which ``TMPDIR`` says where.
"""

import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from alone import machine, run_alone
from averaging import load, make, resident
from jsonargparse import auto_cli

from lightning_soups.weights import gram_of_checkpoints


def ours(paths: list[str]) -> torch.Tensor:
    """Inner products of whole models, seen from the first file."""
    return torch.stack([*gram_of_checkpoints(paths[1:], paths[0]).values()]).sum(0)


def stacked(paths: list[str]) -> torch.Tensor:
    """The same in plain PyTorch: all checkpoints in memory, flattened, in float64."""
    origin, *rows = [torch.cat([tensor.flatten() for tensor in load(path, mmap=False).values()]) for path in paths]
    differences = torch.stack(rows).double() - origin.double()
    return differences @ differences.T


def measure(side: str, paths: list[str]) -> dict[str, Any]:
    """What each process does: one side, once."""
    before, start = resident("VmRSS"), time.perf_counter()
    gram = ours(paths) if side == "ours" else stacked(paths)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_bytes": resident("VmHWM") - before, "gram": gram.tolist()}


def into_page_cache(paths: list[str]) -> None:
    for path in paths:
        with open(path, "rb") as file:
            while file.read(1 << 24):
                pass


def summary(runs: list[dict[str, Any]], count: int, size: int) -> dict[str, Any]:
    seconds = [run["seconds"] for run in runs]
    median = statistics.median(seconds)
    return {
        "checkpoints": count,
        "median_seconds": median,
        "median_seconds_per_checkpoint": median / count,
        "median_seconds_per_pair": median / (count * (count + 1) / 2),
        "peak_in_checkpoints": max(run["peak_bytes"] for run in runs) / size,
        "seconds": seconds,
    }


def main(megabytes: int = 100, few: int = 8, many: int = 32, repeats: int = 5, output: str | None = None) -> None:
    """Measure a few and many checkpoints, and the few stacked.

    Args:
        megabytes: Size of one checkpoint.
        few: How many checkpoints both sides measure, besides the origin.
        many: How many more than that.
        repeats: How often each is measured.
        output: Where to write the JSON as well.
    """
    sides = {"ours few": ("ours", few), "ours many": ("ours", many), "stacked few": ("stacked", few)}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as directory:
        paths = run_alone(make, Path(directory), megabytes, many + 1)
        size = Path(paths[0]).stat().st_size
        for _ in range(repeats):
            for name, (side, count) in sides.items():
                run_alone(into_page_cache, paths[: count + 1])
                runs[name].append(run_alone(measure, side, paths[: count + 1]))
    sums = {name: torch.tensor(of[0]["gram"], dtype=torch.float64) for name, of in runs.items()}
    difference = (sums["ours few"] - sums["stacked few"]).abs().max() / sums["stacked few"].abs().max()
    results = {name: summary(runs[name], count, size) for name, (_, count) in sides.items()}

    def ratio(key: str, over: str, under: str) -> float:
        return float(results[over][key] / results[under][key])

    report = {
        "bytes_of_one": size,
        "repeats": repeats,
        "machine": {
            **run_alone(machine, "cpu"),
            "system": platform.platform(),
            "load_average_at_end": os.getloadavg()[0],
        },
        "sides": results,
        "ratios": {
            "peak many / few": ratio("peak_in_checkpoints", "ours many", "ours few"),
            "seconds per checkpoint many / few": ratio("median_seconds_per_checkpoint", "ours many", "ours few"),
            "seconds per pair many / few": ratio("median_seconds_per_pair", "ours many", "ours few"),
            "peak stacked / ours": ratio("peak_in_checkpoints", "stacked few", "ours few"),
            "seconds stacked / ours": ratio("median_seconds", "stacked few", "ours few"),
        },
        "max_relative_difference_from_stacked": difference.item(),
    }
    text = json.dumps(report, indent=2)
    print(text)
    if output is not None:
        Path(output).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    auto_cli(main)
