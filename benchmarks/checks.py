"""Measure what the checks of ingredients' content add to a cook: their hashes, and the search for NaN.

    python benchmarks/checks.py --megabytes 500 --checkpoints 8 --output checks.json

Each cook is a process of its own that starts from files in the page cache; with and without the checks alternate. The
data are few and the model is wide, so that reading weights is most of what a cook does: the share of the checks is
larger than where evaluating takes long.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from alone import machine, run_alone
from jsonargparse import auto_cli
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_soups import Recipe, SoupTrainer, recipes, records
from lightning_soups.checking import ContentChecks
from lightning_soups.content import content_hash

WIDTH = 2048
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}


class Wide(LightningModule):
    """Square layers, each of 16 MiB."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(layers))

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log a loss."""
        outputs = batch[0]
        for layer in self.layers:
            outputs = torch.tanh(layer(outputs))
        self.log("val_loss", (outputs - batch[1]).square().mean())


def make(directory: Path, megabytes: float, count: int) -> int:
    """Record checkpoints as a SoupCallback would; returns how many layers they have."""
    layers = max(1, round(megabytes * 1e6 / count / (4 * WIDTH**2)))
    torch.manual_seed(0)
    start = Wide(layers).state_dict()
    for index in range(count):
        path = directory / "runs" / f"run-{index:02d}" / "epoch=000-step=000001.ckpt"
        path.parent.mkdir(parents=True)
        state_dict = {name: value + 1e-4 * torch.randn_like(value) for name, value in start.items()}
        torch.save({"state_dict": state_dict, "epoch": 0, "global_step": 1}, path)
        record = {"checkpoint": path.name, "run": path.parent.name, "metrics": {"val_loss": 1.0}, "hyperparameters": {}}
        record |= {"initialization": "same", "epoch": 0, "step": 1, "monitor": "val_loss", "mode": "min"}
        record |= {"exact": False, "devices": 1, "sha256": content_hash(path)}
        records.write_record(path.with_suffix(".json"), record)
    return layers


@contextmanager
def unchecked() -> Iterator[None]:
    """Let ingredients be used as they are."""
    problem = ContentChecks.problem
    ContentChecks.problem = lambda self, *args: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        ContentChecks.problem = problem  # type: ignore[method-assign]


def cook(directory: str, layers: int, recipe: str, samples: int, checked: bool) -> tuple[float, float]:
    """Cook once; returns the seconds on the wall, and those of all threads together on processors."""
    torch.set_num_threads(1)
    for path in Path(directory).glob("runs/*/*.ckpt"):
        with path.open("rb") as file:  # into the page cache
            while file.read(1 << 24):
                pass
    chosen: Recipe = getattr(recipes, recipe)()
    torch.manual_seed(0)
    data = DataLoader(TensorDataset(torch.randn(samples, WIDTH), torch.randn(samples, WIDTH)), batch_size=64)
    trainer = SoupTrainer(accelerator="cpu", devices=1, **QUIET)
    start, busy = time.perf_counter(), time.process_time()
    arguments = {"ingredients": directory, "recipe": chosen, "output": Path(directory) / "soup.ckpt"}
    if checked:
        trainer.cook(Wide(layers), data, **arguments)
    else:
        with unchecked():
            trainer.cook(Wide(layers), data, **arguments)
    return time.perf_counter() - start, time.process_time() - busy


def compared(without: list[float], with_checks: list[float], megabytes: float) -> dict[str, object]:
    """Seconds of both sides, and what the one takes more than the other."""
    return {
        "seconds_without": without,
        "seconds_with": with_checks,
        "ratio_of_medians": statistics.median(with_checks) / statistics.median(without),
        "ratio_of_fastest": min(with_checks) / min(without),
        "seconds_added_by_gigabyte": 1e3 / megabytes * (min(with_checks) - min(without)),
    }


def main(
    megabytes: float = 500, checkpoints: int = 8, samples: int = 256, repeats: int = 5, output: str | None = None
) -> None:
    """Measure a greedy and a uniform cook.

    Args:
        megabytes: Size of all checkpoints together.
        checkpoints: How many.
        samples: How many held-out samples there are.
        repeats: How often each cook is measured.
        output: Where to write the JSON as well.
    """
    report: dict[str, object] = {"megabytes": megabytes, "checkpoints": checkpoints, "samples": samples}
    with tempfile.TemporaryDirectory() as directory:
        layers = make(Path(directory), megabytes, checkpoints)
        for recipe in ("GreedySoup", "UniformSoup"):
            runs: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
            for _ in range(repeats):
                for checked, own in runs.items():
                    own.append(run_alone(cook, directory, layers, recipe, samples, checked))
            report[recipe] = {
                kind: compared([one[place] for one in runs[False]], [one[place] for one in runs[True]], megabytes)
                for place, kind in enumerate(("wall", "processor"))
            }
    report["machine"] = run_alone(machine, "cpu")
    text = json.dumps(report, indent=2)
    print(text)
    if output is not None:
        Path(output).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    auto_cli(main)
