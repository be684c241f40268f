"""Compare ways to cook one greedy soup: the published procedure, a loop of ``trainer.validate``, and ours.

    python benchmarks/greedy.py
    python benchmarks/greedy.py --model cnn
    python benchmarks/greedy.py --accelerator gpu --size vit_b_32 --image_size 224 --ingredients 32 --held_out 26000

Real JPEG files are decoded by the dataset, and the ingredients are real fine-tunes. Every side runs in a process of
its own. Fails when the sides do not choose the same members with the same scores, else prints JSON.
"""

import json
import math
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import sides
from alone import machine, run_alone
from jsonargparse import auto_cli
from workload import Workload, prepare


def compare(workload: Workload, directory: Path) -> dict[str, Any]:
    """Run all sides, one after the other."""
    run_alone(prepare, workload, directory)
    cooks = {
        "published": run_alone(sides.published, workload, directory),
        "validate": run_alone(sides.validate, workload, directory),
        "ours": run_alone(sides.ours, workload, directory, early_rejection=True),
        "ours_without_early_rejection": run_alone(sides.ours, workload, directory, early_rejection=False),
    }
    check_agreement(cooks)
    floor = run_alone(sides.full_passes, workload, directory)
    return {
        "settings": asdict(workload),
        "machine": run_alone(machine, workload.accelerator),
        "sides": {**cooks, "floor": floor},
        "ratios": ratios(cooks, floor),
    }


def check_agreement(cooks: dict[str, dict[str, Any]]) -> None:
    """Stop unless every side chose the same members in the same order, with the same scores."""
    (name, first), *others = cooks.items()
    for other, side in others:
        if side["members"] != first["members"]:
            raise SystemExit(f"The members differ. {name}: {first['members']}. {other}: {side['members']}.")
        pairs = zip(side["scores"], first["scores"], strict=True)
        if not all(math.isclose(*pair, rel_tol=0, abs_tol=1e-6) for pair in pairs):
            raise SystemExit(f"The scores differ. {name}: {first['scores']}. {other}: {side['scores']}.")


def ratios(cooks: dict[str, dict[str, Any]], floor: dict[str, Any]) -> dict[str, float | None]:
    """How much longer the others took, the shares of samples, and what a full pass of ours costs above the floor."""
    ours, full = cooks["ours"], cooks["ours_without_early_rejection"]
    return {
        "seconds published / ours": cooks["published"]["seconds"] / ours["seconds"],
        "seconds validate / ours": cooks["validate"]["seconds"] / ours["seconds"],
        "samples ours / published": ours["samples_evaluated"] / cooks["published"]["samples_evaluated"],
        "seconds published / ours without early rejection": cooks["published"]["seconds"] / full["seconds"],
        "seconds validate / ours without early rejection": cooks["validate"]["seconds"] / full["seconds"],
        "full pass ours / floor": floor["ours"] / floor["bare"] if floor["ours"] is not None else None,
    }


def main(
    model: Literal["vit", "cnn"] = "vit",
    size: str = "small",
    image_size: int = 96,
    ingredients: int = 8,
    held_out: int = 500,
    train: int = 1000,
    epochs: int = 5,
    batch_size: int = 32,
    workers: int = 2,
    accelerator: Literal["cpu", "gpu"] = "cpu",
    directory: Path | None = None,
    output: Path | None = None,
) -> None:
    """Compare ways to cook one greedy soup.

    Args:
        model: A vision transformer, or a convolutional network with BatchNorm.
        size: ``tiny``, ``small`` or ``vit_b_32`` for a vit; ``tiny``, ``small`` or ``large`` for a cnn.
        image_size: Width and height of the images.
        ingredients: Number of fine-tunes.
        held_out: Number of held-out images.
        train: Number of training images.
        epochs: Epochs of pretraining.
        batch_size: Held-out batch size.
        workers: Processes that decode held-out images.
        accelerator: Where the model runs.
        directory: Where to keep images and ingredients, to use them again; a temporary folder by default.
        output: Where to write the JSON as well.
    """
    workload = Workload(model, size, image_size, ingredients, held_out, train, epochs, batch_size, workers, accelerator)
    with tempfile.TemporaryDirectory() as temporary:
        text = json.dumps(compare(workload, directory or Path(temporary)), indent=2)
    print(text)
    if output is not None:
        output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    auto_cli(main)
