"""Pretraining and a sweep on the digits for any seed, as the demo's commands do them."""

from pathlib import Path

from lightning_soups import SoupCLI


def shared_arguments(seed: int, config: Path, directory: Path) -> list[str]:
    """What every command of a seed shares.

    Args:
        seed: Decides the split of the data, the shifts and the training.
        config: The file that all commands share.
        directory: Where everything goes.
    """
    shared = ["--config", str(config), "--seed_everything", str(seed), "--data.seed", str(seed)]
    return [*shared, "--trainer.logger.init_args.save_dir", str(directory)]


def pretrain_and_sweep(seed: int, shared: list[str], pretrain: Path, sweep: Path, directory: Path, trials: int) -> None:
    """Make the initialization and fine-tune it several times.

    Args:
        seed: See :func:`shared_arguments`.
        shared: See :func:`shared_arguments`.
        pretrain: The config of the pretraining.
        sweep: The config of the sweep.
        directory: Where everything goes.
        trials: How many fits.
    """
    theta0 = directory / "pretrained" / "digits.ckpt"
    fit = ["fit", *shared, "--config", str(pretrain), "--data.seed", str(seed)]
    SoupCLI(args=[*fit, "--trainer.callbacks.dirpath", str(theta0.parent)])
    search = ["sweep", *shared, "--config", str(sweep), "--dirpath", str(directory)]
    SoupCLI(args=[*search, "--trials", str(trials), "--model.initialization", str(theta0)])
