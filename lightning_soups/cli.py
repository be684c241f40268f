"""The command line: LightningCLI with four more subcommands, ``cook``, ``study``, ``sweep`` and ``report``."""

import inspect
import os
import sys
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning_utilities.core.rank_zero import rank_zero_only

from lightning_soups.callback import SoupCallback
from lightning_soups.ingredients import Ingredients
from lightning_soups.report import HELP as REPORT_HELP
from lightning_soups.report import write_report
from lightning_soups.soup import Soup
from lightning_soups.studies import StudyResult
from lightning_soups.sweep.command import HELP as SWEEP_HELP
from lightning_soups.sweep.command import SweepOptions, run_sweep
from lightning_soups.sweep.trial import UnrunnableError
from lightning_soups.tables import ingredients_table, make_console, show_score, study_table, trace_table
from lightning_soups.trainer import SoupTrainer

_GIVEN = ("model", "dataloaders", "datamodule")  # what the CLI itself gives to a trainer's method
_BY_HAND = ("sweep", "report")  # what is no method of a trainer


class SoupCLI(LightningCLI):
    """A ``LightningCLI`` that can also ``cook``, ``study``, ``sweep`` and ``report``; it takes the same arguments.

    Replace ``LightningCLI(...)`` by ``SoupCLI(...)`` and keep everything else.

    Raises:
        MisconfigurationException: ``trainer_class`` is a class that is not a ``SoupTrainer``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        bound = inspect.signature(LightningCLI.__init__).bind(self, *args, **kwargs).arguments
        bound.pop("self")
        trainer_class = bound.setdefault("trainer_class", SoupTrainer)
        if isinstance(trainer_class, type) and not issubclass(trainer_class, SoupTrainer):
            raise MisconfigurationException(
                f"`trainer_class` must be a subclass of lightning_soups.SoupTrainer, got {trainer_class.__qualname__}:"
                f" define `class {trainer_class.__name__}(SoupTrainer)`, or leave `trainer_class` out."
            )
        self._construction = dict(bound)
        super().__init__(**bound)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The trainer's methods that are subcommands, and which of their arguments the CLI provides itself."""
        ours = {"cook": set(_GIVEN), "study": {*_GIVEN, "test_dataloaders"}}
        return {**LightningCLI.subcommands(), **ours}

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; configs that come as objects are parsed without a warning about the command line."""
        if isinstance(args, (dict, Namespace)):
            self.config = parser.parse_object(args)
        else:
            super().parse_arguments(parser, args)

    def instantiate_classes(self) -> None:
        """Instantiate trainer, model and data; a sweep does so once per trial instead, a report needs none."""
        if self.subcommand in ("cook", "study"):
            self.save_config_callback = (
                None  # it would refuse to run twice in one folder; what they write has its provenance
            )
        if self.subcommand not in _BY_HAND:
            super().instantiate_classes()

    def fit_once(self, config: Namespace, parameters: dict[str, Any]) -> None:
        """Run one ``fit`` as a CLI of the same kind would, without touching this one.

        Args:
            config: A complete config of the keys that all subcommands share.
            parameters: What a sweep drew for it, by config key, to be recorded.

        Raises:
            UnrunnableError: The trainer's processes are started from the command line, so each would start a sweep.
        """
        save_config = {**self.save_config_kwargs, "overwrite": True}  # the folder is this trial's own
        cli = type(self)(**{**self._construction, "save_config_kwargs": save_config, "args": config, "run": False})
        launcher = cli.trainer.strategy.launcher
        if cli.trainer.world_size > 1 and not isinstance(launcher, _MultiProcessingLauncher):
            raise UnrunnableError(
                "A sweep runs its trials in one process, but this trainer's processes are started from the command"
                " line, and each would start a sweep of its own. Use trainer.devices=1, or strategy 'ddp_spawn'."
            )
        for callback in cli.trainer.callbacks:  # type: ignore[attr-defined]  # Trainer sets it dynamically
            if isinstance(callback, SoupCallback):
                callback.more_hyperparameters = parameters
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)

    def _set_seed(self) -> None:
        """A report draws nothing and has no seed."""
        if self.subcommand != "report":
            super()._set_seed()

    def _setup_parser_kwargs(self, parser_kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Lightning sorts out arguments for the parsers of ``subcommands()``, which lacks what is added by hand."""
        others = {key: value for key, value in parser_kwargs.items() if key not in _BY_HAND}
        main, by_subcommand = super()._setup_parser_kwargs(others)
        return main, {**by_subcommand, **{name: parser_kwargs.get(name, {}) for name in _BY_HAND}}

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        """Lightning's hook takes trainer methods only; a sweep makes many trainers and a report none."""
        super()._add_subcommands(parser, **kwargs)
        sweep_parser = self.init_parser(**{"description": SWEEP_HELP, **kwargs["sweep"]})
        self._add_arguments(sweep_parser)
        self._subcommand_method_arguments["sweep"] = sweep_parser.add_class_arguments(SweepOptions, as_group=True)
        report_parser = self.parser_class(**{"description": REPORT_HELP, **kwargs["report"]})
        self._subcommand_method_arguments["report"] = report_parser.add_function_arguments(write_report, as_group=False)
        assert parser._subcommands_action is not None
        for name, own, text in (("sweep", sweep_parser, SWEEP_HELP), ("report", report_parser, REPORT_HELP)):
            self._subcommand_parsers[name] = own
            parser._subcommands_action.add_subcommand(name, own, help=text)

    def _run_subcommand(self, subcommand: str) -> None:
        if subcommand == "sweep":
            self._run_sweep()
        elif subcommand == "report":
            self._run_report()
        elif subcommand in ("cook", "study"):
            self._run_with_ingredients(subcommand)
        else:
            super()._run_subcommand(subcommand)

    def _run_sweep(self) -> None:
        config = self.config.sweep
        options = SweepOptions(**{name: config[name] for name in self._subcommand_method_arguments["sweep"]})
        shared = config.clone()
        for name in (*vars(options), "config"):
            del shared[name]
        parser = self.init_parser(exit_on_error=False)
        self._add_arguments(parser)
        try:
            run_sweep(shared, options, self.fit_once, parser, self._construction.get("args"))
        except (ValueError, MisconfigurationException, UnrunnableError) as error:
            self._subcommand_parsers["sweep"].error(str(error))

    def _run_report(self) -> None:
        options = {name: self.config.report[name] for name in self._subcommand_method_arguments["report"]}
        try:
            path = write_report(**options)
        except (ValueError, OSError) as error:
            self._subcommand_parsers["report"].error(str(error))
        print(f"Saved to {path}")

    def _run_with_ingredients(self, subcommand: str) -> None:
        assert isinstance(self.trainer, SoupTrainer)
        arguments = self._prepare_subcommand_kwargs(subcommand)
        try:
            arguments["ingredients"] = Ingredients.load(arguments["ingredients"], arguments.pop("initialization"))
        except (ValueError, FileNotFoundError) as error:
            self._subcommand_parsers[subcommand].error(str(error))
        try:
            if subcommand == "cook":
                _show_soup(self.trainer.cook(**arguments))
            else:
                _show_study(self.trainer.study(**arguments))
        except (MisconfigurationException, ValueError) as error:
            if not _is_ours(error):
                raise
            self._subcommand_parsers[subcommand].error(str(error))


def _is_ours(error: BaseException) -> bool:
    """Whether this package raised an error, whose text says enough; a user's own needs its traceback."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith("lightning_soups.")


@rank_zero_only
def _show_study(result: StudyResult) -> None:
    console = make_console()
    console.print(study_table(result), "")
    for sentence in (*result.conclusions, *result.caveats):
        console.print(f"• {sentence}")
    assert result.path is not None
    written = [suffix for suffix in (".json", ".csv", ".png", ".svg") if result.path.with_suffix(suffix).exists()]
    console.print(f"\nSaved to {result.path.with_suffix('')} ({', '.join(written)})", soft_wrap=True)


@rank_zero_only
def _show_soup(soup: Soup) -> None:
    console = make_console()
    console.print(trace_table(soup), "")
    chosen = [member for member in soup.ingredients if member in soup.candidates]
    if len(chosen) < len(soup.candidates) or not soup.mixture.is_uniform:
        title = f"What the soup is mixed of: {len(soup.ingredients)} members"
        layers = ", and other coefficients in some layers" if soup.mixture.layers else ""
        console.print(ingredients_table(soup.ingredients, title + layers, soup.mixture), "")
    initialization = " and the initialization" if len(chosen) < len(soup.ingredients) else ""
    console.print(
        f"{soup.recipe}: {len(chosen)} of {len(soup.candidates)} ingredients{initialization},"
        f" {soup.monitor} [bold]{show_score(soup.score.value)}[/bold]. Saved to {soup.path}",
        soft_wrap=True,
    )


def main() -> None:
    """Entry point of ``lightning-soup``: any model and data by ``class_path``, your own included."""
    if os.getcwd() not in sys.path:  # a console script does not see modules in the working directory otherwise
        sys.path.insert(0, os.getcwd())
    SoupCLI()
