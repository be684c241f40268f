"""Measure what a question of ours costs as ingredients, held-out images and processes grow.

    python benchmarks/scaling.py

Every cook runs in a process of its own, on the CPU; two processes are Lightning's ``ddp_spawn``. Fails when one and two
processes do not choose the same members, else prints JSON.
"""

import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from alone import machine, peak_memory, run_alone
from jsonargparse import auto_cli
from workload import Workload, prepare

from lightning_soups import SoupTrainer
from lightning_soups.trace import Question


def cook(
    workload: Workload, directory: Path, ingredients: int, early_rejection: bool = True, processes: int = 1
) -> dict[str, Any]:
    """Cook with the first so many ingredients, and say what each kind of question cost."""
    more = {"devices": processes, "strategy": "ddp_spawn"} if processes > 1 else {}
    soup = SoupTrainer(**workload.trainer_arguments(**more)).cook(
        workload.module(),
        dataloaders=workload.loader(directory),
        ingredients=[str(path) for path in workload.recorded(directory)[:ingredients]],
        output=directory / "scaling.ckpt",
        early_rejection=early_rejection,
        batch_norm="average",
    )
    # the first one decodes the images, which would hide what the others cost
    first, *later = [row for row in soup.trace if not row.cached]
    sizes = sorted({len(row.mixture) for row in later})
    return {
        "ingredients": ingredients,
        "held_out": workload.held_out,
        "early_rejection": early_rejection,
        "processes": processes,
        "members": [member.run for member in soup.ingredients],
        "first": costs([first]),
        "single ingredients": costs([row for row in later if row.accepted is None]),
        "accepted": costs([row for row in later if row.accepted]),
        "rejected": costs([row for row in later if row.accepted is False]),
        "by members": {size: costs([row for row in later if len(row.mixture) == size]) for size in sizes},
        "all": costs([first, *later]),
        **peak_memory(workload.accelerator),
    }


def costs(rows: Sequence[Question]) -> dict[str, float] | None:
    """How many questions, and the medians and totals of their seconds and samples; None when there are none."""
    if not rows:
        return None
    seconds, samples = [row.seconds for row in rows], [row.samples for row in rows]
    return {
        "questions": len(rows),
        "median_seconds": statistics.median(seconds),
        "median_samples": statistics.median(samples),
        "total_seconds": sum(seconds),
        "total_samples": sum(samples),
    }


def measure(workload: Workload, directory: Path, counts: Sequence[int], factors: Sequence[int]) -> dict[str, Any]:
    """Let one thing grow at a time."""
    many = replace(workload, ingredients=max(counts))
    run_alone(prepare, many, directory / "many")
    by_ingredients = [
        run_alone(cook, many, directory / "many", count, early_rejection)
        for count in counts
        for early_rejection in (True, False)
    ]
    by_held_out = []
    for factor in factors:
        # recorded anew, because the recorded scores are of these held-out images; the weights are the same
        larger = replace(workload, ingredients=min(counts), held_out=factor * workload.held_out)
        run_alone(prepare, larger, directory / f"held_out_{factor}")
        by_held_out.append(run_alone(cook, larger, directory / f"held_out_{factor}", min(counts)))
    by_processes = [run_alone(cook, many, directory / "many", min(counts), processes=processes) for processes in (1, 2)]
    if len({tuple(run["members"]) for run in by_processes}) > 1:
        raise SystemExit(f"One and two processes chose different members: {by_processes}.")
    return {"by_ingredients": by_ingredients, "by_held_out": by_held_out, "by_processes": by_processes}


def main(
    model: Literal["vit", "cnn"] = "vit",
    size: str = "tiny",
    image_size: int = 32,
    ingredients: list[int] = [8, 16, 32, 64],  # noqa: B006  jsonargparse shows the default
    held_out: int = 500,
    factors: list[int] = [1, 2, 4],  # noqa: B006
    train: int = 1000,
    epochs: int = 6,
    batch_size: int = 32,
    workers: int = 2,
    directory: Path | None = None,
    output: Path | None = None,
) -> None:
    """Measure what a question costs as ingredients, held-out images and processes grow.

    Args:
        model: A vision transformer, or a convolutional network with BatchNorm.
        size: ``tiny``, ``small`` or ``vit_b_32`` for a vit; ``tiny``, ``small`` or ``large`` for a cnn.
        image_size: Width and height of the images.
        ingredients: Numbers of fine-tunes; the other measurements use the smallest.
        held_out: Number of held-out images.
        factors: What the number of held-out images is multiplied by.
        train: Number of training images.
        epochs: Epochs of pretraining.
        batch_size: Held-out batch size.
        workers: Processes that decode held-out images.
        directory: Where to keep images and ingredients, to use them again; a temporary folder by default.
        output: Where to write the JSON as well.
    """
    workload = Workload(
        model, size, image_size, min(ingredients), held_out, train, epochs, batch_size, workers, accelerator="cpu"
    )
    with tempfile.TemporaryDirectory() as temporary:
        measured = measure(workload, directory or Path(temporary), ingredients, factors)
    report = {"settings": asdict(workload), "machine": run_alone(machine, workload.accelerator), **measured}
    text = json.dumps(report, indent=2)
    print(text)
    if output is not None:
        output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    auto_cli(main)
