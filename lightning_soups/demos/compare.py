"""The demo's last step: the initialization, the best single model and the soups, side by side on every dataset."""

import json
import logging
import warnings
from pathlib import Path

from jsonargparse import auto_cli
from lightning.pytorch import Trainer

from lightning_soups.demos.digits_data import Digits
from lightning_soups.demos.digits_model import DigitsClassifier
from lightning_soups.ingredients import Ingredients
from lightning_soups.local_copies import local_copy
from lightning_soups.paths import AnyPath
from lightning_soups.tables import make_console, plain_table


def compare(dirpath: str = "soups/digits", seed: int = 0, mnist: bool = False, output: str | None = None) -> None:
    """Measure the demo's models on the held-out data, the test images and each shifted test set.

    Args:
        dirpath: The soup directory of the demo.
        seed: The split of the data, as in the config.
        mnist: Whether to measure on MNIST as well, a natural shift.
        output: Where to write the accuracies as JSON; nowhere by default.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    directory = Path(dirpath)
    models = {
        "initialization": directory / "pretrained" / "digits.ckpt",
        "best single": Ingredients.load(directory).best_first()[0].path,
        "uniform soup": directory / "soups" / "uniform.ckpt",
        "greedy soup": directory / "soups" / "greedy.ckpt",
    }
    rows = {name: _accuracies(path, Digits(seed=seed, mnist=mnist)) for name, path in models.items()}
    columns = list(next(iter(rows.values())))
    best = {column: max(row[column] for row in rows.values()) for column in columns}
    table = plain_table("Accuracy in %, then under each shift (the best in bold)")
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    for name, row in rows.items():
        cells = [f"{'[bold]' if row[column] == best[column] else ''}{100 * row[column]:.2f}" for column in columns]
        table.add_row(name, *cells)
    make_console().print(table)
    if output is not None:
        Path(output).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def _accuracies(path: AnyPath, datamodule: Digits) -> dict[str, float]:
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False)
    model = DigitsClassifier.load_from_checkpoint(local_copy(path))
    (held_out,) = trainer.validate(model, datamodule=datamodule, verbose=False)
    tested = trainer.test(model, datamodule=datamodule, verbose=False)
    accuracies = {"held-out": held_out["val_acc"]}
    for metrics in tested:
        accuracies.update({name.removeprefix("test_acc/"): value for name, value in metrics.items()})
    shifted = [value for name, value in accuracies.items() if name not in ("held-out", "test", "mnist")]
    return {**accuracies, "mean shift": sum(shifted) / len(shifted)}


if __name__ == "__main__":
    auto_cli(compare)
