"""The ``sweep`` subcommand."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.cli import ArgsType
from rich.markup import escape

from lightning_soups import records
from lightning_soups.ingredient import Ingredient
from lightning_soups.ingredients import Ingredients
from lightning_soups.paths import AnyPath, any_path
from lightning_soups.score import Score
from lightning_soups.sweep.config import TrialConfigs
from lightning_soups.sweep.trial import Trial
from lightning_soups.sweep.workers import first_of_parent, own_command, run_workers, worker_environments
from lightning_soups.tables import ingredients_table, make_console, show_score, show_value

if TYPE_CHECKING:
    from lightning_soups.sweep.sweep import Sweep

FitOnce = Callable[[Namespace, dict[str, Any]], None]
HELP = "Run many fits over a search space; each leaves ingredients for a soup."


@dataclass(frozen=True)
class SweepOptions:
    """What to vary, how often, and where the ingredients go.

    Args:
        space: Config keys and what to draw for each: ``{uniform: [low, high]}``, ``{log_uniform: [low, high]}``,
            ``{integer: [low, high]}`` or ``{categorical: [choice, choice, ...]}``. Any key of the config can vary,
            for example ``model.init_args.lr``, ``trainer.max_epochs`` or ``seed_everything``.
        trials: How many fits have to succeed in all, by every worker. The same command run again continues to this
            number. By default the whole grid with sampler ``grid``.
        dirpath: The soup directory, which also holds the trials' log folders (``trials``). By default that of the
            config's ``SoupCallback``.
        monitor: The logged metric that ranks ingredients. By default that of the config's ``SoupCallback``.
        mode: ``max`` when a larger ``monitor`` is better, ``min`` when a smaller one is. By default as in the config's
            ``SoupCallback``, or as the logged ``torchmetrics.Metric`` declares.
        sampler: ``random`` search, a ``grid`` of listed values, or Optuna's ``tpe``.
        storage: Where the sweep's state is, for workers on any number of machines, each of which is this command: a
            file that ends in ``.journal`` or ``.log`` on a shared disk, or a database URL of SQLAlchemy's such as
            ``postgresql://user@host/sweeps``. By default the SQLite file ``sweep.db`` in ``dirpath``, which is for
            workers on one machine.
        study_name: Which sweep of the ``storage``, which can hold several. By default ``dirpath`` as it is written, and
            ``sweep`` in ``sweep.db``.
        workers: How many trials run on this machine at a time, each in a process of its own and, if there are GPUs,
            with one of its own.
    """

    space: dict[str, dict[str, list[Any]]]
    trials: int | None = None
    dirpath: str | None = None
    monitor: str | None = None
    mode: Literal["min", "max"] | None = None
    sampler: Literal["random", "grid", "tpe"] = "random"
    storage: str | None = None
    study_name: str | None = None
    workers: int = 1


def run_sweep(
    shared: Namespace,
    options: SweepOptions,
    fit_once: FitOnce,
    parser: ArgumentParser,
    arguments: ArgsType,
) -> None:
    """Run the trials that are missing, a line each, and print the ingredients.

    Args:
        shared: The config that the trials share; its ``seed_everything`` is an int.
        options: The rest of the subcommand's config.
        fit_once: Runs one fit, given its config and what was drawn for it.
        parser: Parses configs of the same keys; must raise instead of exiting.
        arguments: What the command line was given instead of that of this process; None if nothing.

    Raises:
        SystemExit: No trial has succeeded, or Optuna is not installed.
        ValueError: An option or a key of the space is wrong.
    """
    with _quiet():
        _run(shared, options, fit_once, parser, arguments)


def _run(
    shared: Namespace,
    options: SweepOptions,
    fit_once: FitOnce,
    parser: ArgumentParser,
    arguments: ArgsType,
) -> None:
    if options.workers < 1:
        raise ValueError(f"`workers` must be at least 1, got {options.workers}.")
    configs = TrialConfigs(shared, options.dirpath, options.monitor, options.mode)
    directory = any_path(configs.dirpath, "dirpath")
    if not isinstance(directory, Path) and options.storage is None:
        raise ValueError(
            f"The state of a sweep cannot be kept in {configs.dirpath!r}, which is on no disk. Pass `storage`, for"
            " example --storage sweep.journal or --storage postgresql://user@host/sweeps."
        )
    first = first_of_parent()
    sweep = _open_sweep(directory, options, configs.base_seed, first)
    configs.check(parser, sweep.extreme_values)
    console = make_console()
    say = partial(console.print, soft_wrap=True)

    def fit(number: int, parameters: dict[str, Any]) -> Score | None:
        before = set(records.find_records(directory))
        fit_once(configs.make(number, parameters), parameters)
        # read from disk: with a spawning strategy the callback that recorded them has gone with its process
        new = set(records.find_records(directory)) - before
        own = [path for path in new if configs.is_run_of(number, path.parent.name)]
        scores = [Ingredient.from_record(path).score for path in own]
        return max((score for score in scores if score is not None), default=None)

    def run_trials() -> None:
        sweep.run(fit, lambda trial: say(_line(trial)))

    if first is not None:  # a worker: the process that started it says the rest
        run_trials()
        return
    others = f"{sweep.running} are running elsewhere, " if sweep.running else ""
    say(
        f"Sweep in {configs.dirpath!r}: {sweep.succeeded} trials have succeeded, {others}{sweep.remaining} to run"
        f" (sampler {options.sampler}, base seed {configs.base_seed})."
    )
    if options.workers > 1 and sweep.remaining:
        trainer = shared.trainer
        environments = worker_environments(options.workers, trainer.accelerator, trainer.devices)
        run_workers(own_command(arguments), environments, sweep.first, lambda line: say(escape(line)))
    else:
        run_trials()
    _report(say, sweep)
    if not sweep.succeeded:
        if sweep.running:
            return
        raise SystemExit("No trial has succeeded.")
    found = Ingredients.load(directory).best_first()
    console.print(ingredients_table(found, f"{len(found)} ingredients in {directory}, best first"))


def _open_sweep(directory: AnyPath, options: SweepOptions, base_seed: int, first: int | None) -> "Sweep":
    try:
        from lightning_soups.sweep.sweep import Sweep
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"A sweep needs Optuna ({error}). Install it with: pip install 'lightning-soups[sweep]'"
        ) from error
    logging.getLogger("optuna").setLevel(logging.WARNING)  # it reports every trial as well
    return Sweep(
        directory,
        options.space,
        options.trials,
        options.sampler,
        base_seed,
        options.storage,
        options.study_name,
        first,
    )


def _line(trial: Trial) -> str:
    outcome = f"[red]{escape(trial.error or '')}[/red]"
    if trial.score is not None:
        outcome = f"[green]{show_score(trial.score.value)}[/green]"
    shown = ", ".join(f"{key.rpartition('.')[2]} {show_value(value)}" for key, value in trial.parameters.items())
    return f"trial {trial.number:03d}  {outcome}  {escape(shown)}  ({trial.seconds:.1f} s)"


def _report(say: Callable[[str], None], sweep: "Sweep") -> None:
    if failures := sweep.failures:
        say(f"[red]{len(failures)} of {sweep.finished} trials failed[/red]; what they recorded before stays:")
        for number, error in failures.items():
            say(f"  trial {number:03d}: {escape(error)}")
    if sweep.running:
        say(f"{sweep.running} trials are still running elsewhere.")
    if failures or sweep.remaining:
        say("The same command run again tries to make up for what is missing.")


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning announces devices and seeds at every fit; N times would hide the results."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
