"""Ray Tune searches; every trial is an ordinary Lightning fit with a ``SoupCallback``; afterwards a soup is cooked.

Run it with ``python examples/ray_tune.py --dirpath soups/ray``. It needs ``pip install 'ray[tune]'``.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from ray import tune
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from lightning_soups import Soup, SoupCallback, SoupTrainer


class Classifier(LightningModule):
    """A small network on two interleaved rings, which every trial starts from the same weights.

    Args:
        lr: Learning rate.
        momentum: Of SGD.
    """

    def __init__(self, lr: float = 0.1, momentum: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(0)  # the same initialization in every trial, whatever seeds it trains with
        self.net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))
        self.val_acc = MulticlassAccuracy(2, average="micro")

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy of a batch."""
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log the accuracy, which ranks ingredients and which Ray Tune is told."""
        self.val_acc(self.net(batch[0]), batch[1])
        self.log("val_acc", self.val_acc)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with the trial's hyperparameters."""
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"], momentum=self.hparams["momentum"])


def rings(samples: int, seed: int) -> DataLoader[Any]:
    """A ring inside another, two noisy coordinates a point."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % 2
    angles = 2 * torch.pi * torch.rand(samples, generator=generator)
    radii = 1 + 0.6 * labels + 0.15 * torch.randn(samples, generator=generator)
    points = torch.stack([radii * angles.cos(), radii * angles.sin()], dim=1)
    return DataLoader(TensorDataset(points, labels), batch_size=32)


class TellRay(Callback):
    """Tell Ray Tune the score of every epoch, so that its schedulers can stop a trial and its tables are filled."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report what was just measured."""
        if not trainer.sanity_checking:
            tune.report({"val_acc": trainer.callback_metrics["val_acc"].item()})


def fit(config: dict[str, Any]) -> None:
    """One trial: nothing in it knows of soups but the callback."""
    recorder = SoupCallback(config["dirpath"], monitor="val_acc", run=tune.get_context().get_trial_name())
    trainer = Trainer(
        max_epochs=config["max_epochs"],
        accelerator="auto",
        devices=1,
        callbacks=[recorder, TellRay()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(Classifier(config["lr"], config["momentum"]), rings(512, seed=1), rings(256, seed=2))


def search_and_cook(dirpath: Path, trials: int, max_epochs: int, gpus: float = 0) -> Soup:
    """Search with Ray Tune, then cook from what the trials left.

    Args:
        dirpath: The soup directory; a shared disk when Ray runs on several machines.
        trials: How many fits.
        max_epochs: Of each.
        gpus: How many GPUs a trial gets; a fraction lets trials share one.
    """
    dirpath = dirpath.absolute()  # trials work in folders of their own
    tuner = tune.Tuner(
        tune.with_resources(fit, {"cpu": 1, "gpu": gpus}),
        param_space={
            "lr": tune.loguniform(0.03, 1.0),
            "momentum": tune.uniform(0.0, 0.9),
            "max_epochs": max_epochs,
            "dirpath": str(dirpath),
        },
        tune_config=tune.TuneConfig(metric="val_acc", mode="max", num_samples=trials),
        run_config=tune.RunConfig(name="ray", storage_path=str(dirpath), verbose=0),
    )
    results = tuner.fit()
    print(f"{len(results) - results.num_errors} of {len(results)} trials succeeded.")
    cook = SoupTrainer(logger=False, enable_progress_bar=False)
    return cook.cook(Classifier(), rings(256, seed=2), ingredients=str(dirpath))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dirpath", type=Path, default=Path("soups/ray"))
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--max_epochs", type=int, default=5)
    parser.add_argument("--gpus", type=float, default=0)
    soup = search_and_cook(**vars(parser.parse_args()))
    print(f"{len(soup.ingredients)} of {len(soup.candidates)} ingredients, val_acc {soup.score.value:.4f}: {soup.path}")
