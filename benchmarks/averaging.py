"""Measure averaging against the floor and two other ways: seconds, peak memory, exactness.

    python benchmarks/averaging.py --megabytes 400 --checkpoints 8 --output averaging.json

Each measurement is a child process that starts from files in the page cache, and sides alternate. The floor reads all
memory-mapped bytes and adds them once, in float32, with all threads or one: ratios are to the faster. Memory is the
resident peak as the kernel counts it, mapped file pages included, above what the process held before; it is given as
a multiple of one checkpoint.
"""

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from jsonargparse import auto_cli
from torch import Tensor, nn

from lightning_soups.weights import average_checkpoints

SIDES = ("floor", "floor_one_thread", "ours_uniform", "ours_weighted", "averaged_model", "float64_loop")
StateDict = dict[str, Tensor]


def make(directory: Path, megabytes: int, count: int) -> list[str]:
    """Transformer-like checkpoints: an embedding, blocks of matrices and small vectors, and an int buffer."""
    width = 512 if megabytes < 200 else 1024
    block = {
        "attention": (3 * width, width),
        "out": (width, width),
        "up": (4 * width, width),
        "down": (width, 4 * width),
    }
    vectors = {"attention.bias": 3 * width, "up.bias": 4 * width, "out.bias": width, "norm.weight": width}
    paths = [str(directory / f"{index}.ckpt") for index in range(count)]
    layers = max(1, round(megabytes * 1e6 * 0.8 / (4 * 12 * width**2)))
    for index, path in enumerate(paths):
        generator = torch.Generator().manual_seed(index)
        embedding = (round(megabytes * 1e6 * 0.2 / (4 * width)), width)
        state_dict = {"embedding.weight": torch.randn(embedding, generator=generator), "steps": torch.tensor(index)}
        for layer in range(layers):
            for name, shape in {**block, **vectors}.items():
                size = shape if isinstance(shape, tuple) else (shape,)
                state_dict[f"{layer}.{name}"] = torch.randn(size, generator=generator)
        torch.save({"state_dict": state_dict}, path)
    return paths


def weights(count: int) -> list[float]:
    """Coefficients that are not equal and sum to 1."""
    return [2 * (index + 1) / (count * (count + 1)) for index in range(count)]


def load(path: str, mmap: bool) -> StateDict:
    state_dict: StateDict = torch.load(path, mmap=mmap, weights_only=True)["state_dict"]
    return {name: tensor for name, tensor in state_dict.items() if tensor.is_floating_point()}


def floor(paths: list[str]) -> StateDict:
    state_dicts = [load(path, mmap=True) for path in paths]
    result = {}
    for name, first in state_dicts[0].items():
        result[name] = torch.zeros_like(first)
        for state_dict in state_dicts:
            result[name].add_(state_dict[name])
    return result


def floor_one_thread(paths: list[str]) -> StateDict:
    torch.set_num_threads(1)  # faster than two where other processes keep the cores busy
    return floor(paths)


def averaged_model(paths: list[str]) -> StateDict:
    module = nn.Module()
    module.values = nn.ParameterList(load(paths[0], mmap=False).values())
    average = torch.optim.swa_utils.AveragedModel(module)
    average.update_parameters(module)
    for path in paths[1:]:
        for parameter, value in zip(module.values, load(path, mmap=False).values(), strict=True):
            parameter.data = value
        average.update_parameters(module)
    return dict(zip(load(paths[0], mmap=True), (value.data for value in average.module.values), strict=True))


def float64_loop(paths: list[str]) -> StateDict:
    sums: StateDict = {}
    for path in paths:
        for name, tensor in load(path, mmap=False).items():
            sums[name] = sums[name] + tensor.double() if name in sums else tensor.double()
    return {name: (total / len(paths)).float() for name, total in sums.items()}


def resident(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def measure(side: str, paths: list[str], check: bool) -> dict[str, object]:
    """What a child process does: one side, once, and with ``check`` how far it is from the float64 reference."""
    before, start = resident("VmRSS"), time.perf_counter()
    coefficients = weights(len(paths)) if side == "ours_weighted" else None
    result = average_checkpoints(paths, coefficients) if side.startswith("ours") else globals()[side](paths)
    measured: dict[str, object] = {
        "seconds": time.perf_counter() - start,
        "peak_in_checkpoints": (resident("VmHWM") - before) / Path(paths[0]).stat().st_size,
    }
    if check:
        state_dicts = [load(path, mmap=True) for path in paths]
        worst, same = 0.0, True
        for name in state_dicts[0]:
            tensors = [state_dict[name].double() for state_dict in state_dicts]
            exact = sum(c * t for c, t in zip(coefficients, tensors, strict=True)) if coefficients else sum(tensors)
            assert isinstance(exact, Tensor)
            expected = (exact if coefficients else exact / len(paths)).float()
            value = result[name] / len(paths) if side.startswith("floor") else result[name]
            worst = max(worst, (value - expected).abs().max().item())
            same = same and torch.equal(value, expected)
        measured |= {"max_difference": worst, "same_bits_as_float64": same}
    return measured


def main(
    megabytes: int = 400,
    checkpoints: int = 8,
    repeats: int = 5,
    output: str | None = None,
    child: str | None = None,
    files: list[str] | None = None,
    check: bool = False,
) -> None:
    """Measure every side.

    Args:
        megabytes: Size of one checkpoint.
        checkpoints: How many.
        repeats: How often each side is measured.
        output: Where to write the JSON as well.
        child: Used internally: the side this process measures.
        files: Used internally: the checkpoints it measures on.
        check: Used internally: whether it compares with the reference.
    """
    if child is not None:
        print(json.dumps(measure(child, files or [], check)))
        return
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as directory:
        paths = make(Path(directory), megabytes, checkpoints)
        size = Path(paths[0]).stat().st_size
        for repeat in range(repeats):
            for side in SIDES:
                for path in paths:
                    with open(path, "rb") as file:  # into the page cache
                        while file.read(1 << 24):
                            pass
                command = [sys.executable, __file__, "--child", side, "--files", json.dumps(paths)]
                command += ["--check", str(repeat == 0).lower()]
                printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                runs[side].append(json.loads(printed))
    seconds = {side: [run["seconds"] for run in of] for side, of in runs.items()}
    floors = [seconds[side] for side in SIDES if side.startswith("floor")]
    fastest, usual = min(map(min, floors)), min(map(statistics.median, floors))
    sides = {
        side: {
            "median_seconds": statistics.median(seconds[side]),
            "min_seconds": min(seconds[side]),
            "median_over_floor": statistics.median(seconds[side]) / usual,
            "min_over_floor": min(seconds[side]) / fastest,
            "peak_in_checkpoints": max(run["peak_in_checkpoints"] for run in of),
            "max_difference": of[0]["max_difference"],
            "same_bits_as_float64": of[0]["same_bits_as_float64"],
            "seconds": seconds[side],
        }
        for side, of in runs.items()
    }
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "cpus": os.cpu_count()}
    machine |= {"system": platform.platform(), "load_average_at_end": os.getloadavg()[0]}
    report = {"checkpoints": checkpoints, "bytes_of_one": size, "repeats": repeats, "machine": machine, "sides": sides}
    text = json.dumps(report, indent=2)
    print(text)
    if output is not None:
        Path(output).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    auto_cli(main)
