"""Measure how much memory a learned soup takes with few and with many ingredients, and what a step costs.

    python benchmarks/learned.py --output learned.json

Each measurement is a cook in a process of its own: a few steps of a learned soup of wide linear layers, in float32, on
one small held-out batch. Memory is the resident peak as the kernel counts it, mapped file pages included, above what
the process held when the model was built; it is given as a multiple of one checkpoint. The files go to a temporary
folder, of which ``TMPDIR`` says where.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from alone import machine, run_alone
from averaging import resident
from jsonargparse import auto_cli
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_soups import LearnedSoup, SoupTrainer

_LAYERS = 6


class Wide(LightningModule):
    """Square linear layers with a residual connection.

    Args:
        width: Features of each layer.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(_LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        """Features, shape (N, width), to features."""
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return x

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Mean squared distance from the targets."""
        self.log("val_loss", nn.functional.mse_loss(self(batch[0]), batch[1]))


def make(directory: Path, width: int, count: int) -> list[str]:
    """Write checkpoints of slightly different models."""
    torch.manual_seed(0)
    start = Wide(width).state_dict()
    paths = []
    for number in range(count):
        weights = {name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in start.items()}
        paths.append(str(directory / f"{number:03d}.ckpt"))
        torch.save({"state_dict": weights, "hyper_parameters": {"width": width}}, paths[-1])
    return paths


def measure(paths: list[str], width: int, steps: int, by_layer: bool) -> dict[str, Any]:
    """What each process does: one cook."""
    data = TensorDataset(torch.randn(32, width), torch.randn(32, width))
    model = Wide(width)
    before = resident("VmRSS")
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    soup = SoupTrainer(accelerator="cpu", devices=1, **quiet).cook(  # type: ignore[arg-type]
        model,
        DataLoader(data, batch_size=32),
        ingredients=paths,
        monitor="val_loss",
        mode="min",
        recipe=LearnedSoup(steps=steps, by_layer=by_layer),
        output=Path(paths[0]).with_name("soup.ckpt"),
    )
    learned = soup.trace[-1]
    assert learned.label.startswith("learned")
    return {"peak_bytes": resident("VmHWM") - before, "seconds": sum(row.seconds for row in soup.trace)}


def main(
    width: int = 2048, few: int = 8, many: int = 32, steps: int = 3, by_layer: bool = True, output: str | None = None
) -> None:
    """Measure a few and many ingredients.

    Args:
        width: Of the model's six square layers.
        few: How many ingredients at first.
        many: How many then.
        steps: How many steps to learn.
        by_layer: Whether layers have coefficients of their own.
        output: Where to write the JSON as well.
    """
    with tempfile.TemporaryDirectory() as directory:
        paths = run_alone(make, Path(directory), width, many)
        size = Path(paths[0]).stat().st_size
        peaks = {
            count: run_alone(measure, paths[:count], width, steps, by_layer)["peak_bytes"] / size
            for count in (few, many)
        }
    report = {
        "bytes_of_one": size,
        "steps": steps,
        "by_layer": by_layer,
        "machine": run_alone(machine, "cpu"),
        "peak_in_checkpoints": {str(count): peak for count, peak in peaks.items()},
        "peak_many_over_few": peaks[many] / peaks[few],
    }
    text = json.dumps(report, indent=2)
    print(text)
    if output is not None:
        Path(output).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    auto_cli(main)
