"""The command line: LightningCLI with five more subcommands, ``cook``, ``study``, ``sweep``, ``report`` and ``ls``."""

import faulthandler
import inspect
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning_utilities.core.rank_zero import rank_zero_only

from lightning_soups.bad_ingredients import settle
from lightning_soups.callback import SoupCallback
from lightning_soups.command_line.first_ingredient import PARTS, accepted_arguments, first_that_opens
from lightning_soups.command_line.ls import HELP as LS_HELP
from lightning_soups.command_line.ls import add_ls_arguments, run_ls
from lightning_soups.command_line.named_classes import NamedImports, folders_of
from lightning_soups.command_line.peek import peek
from lightning_soups.command_line.showing import is_ours, show_soup, show_study
from lightning_soups.ingredients import Ingredients, find_ingredients
from lightning_soups.other_name import refuse_other_name
from lightning_soups.report import HELP as REPORT_HELP
from lightning_soups.report import write_report
from lightning_soups.sweep.command import HELP as SWEEP_HELP
from lightning_soups.sweep.command import SweepOptions, run_sweep
from lightning_soups.sweep.trial import UnrunnableError
from lightning_soups.trainer import SoupTrainer
from lightning_soups.visible import visible

_GIVEN = ("model", "dataloaders", "datamodule")  # what the CLI itself gives to a trainer's method
_WITHOUT_TRAINER = ("report", "ls")
_BY_HAND = ("sweep", *_WITHOUT_TRAINER)  # what is no method of a trainer


class SoupCLI(LightningCLI):
    """A ``LightningCLI`` that can also ``cook``, ``study``, ``sweep``, ``report`` and ``ls``; same arguments.

    Replace ``LightningCLI(...)`` by ``SoupCLI(...)`` and keep everything else.

    Raises:
        MisconfigurationException: ``trainer_class`` is a class that is not a ``SoupTrainer``, or a class is written
            against ``pytorch_lightning``.
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
        refuse_other_name(*(bound.get(name) for name in ("model_class", "datamodule_class")))
        self._construction = dict(bound)
        self._found: Ingredients | None = None
        super().__init__(**bound)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The trainer's methods that are subcommands, and which of their arguments the CLI provides itself."""
        ours = {"cook": {*_GIVEN, "train_dataloaders"}, "study": {*_GIVEN, "test_dataloaders"}}
        return {**LightningCLI.subcommands(), **ours}

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; what cooking and studying build is by default what the first ingredient says.

        Configs that come as objects are parsed without a warning about the command line.
        """
        with NamedImports() as imports:
            origin = self._take_defaults_from_ingredients(parser, args, imports)
            if isinstance(args, (dict, Namespace)):
                self.config = parser.parse_object(args)
            else:
                super().parse_arguments(parser, args)
        if origin is not None:
            rank_zero_only(print)(visible(origin))

    def instantiate_classes(self) -> None:
        """Instantiate trainer, model and data; a sweep does so once per trial instead, others need none."""
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

    def _parse_ckpt_path(self) -> None:
        """Complete Lightning's hook: it needs the class in the checkpoint, where only LightningCLI saves it.

        Scripts save hyperparameters without it. Then they are arguments of the class that was given.
        """
        config = self.config.get(self.config.get("subcommand") or "", {})
        path, model = config.get("ckpt_path"), config.get("model")
        if not self.subclass_mode_model or not path or not Path(path).is_file() or not model:
            super()._parse_ckpt_path()
            return
        arguments = accepted_arguments(Path(path), model.class_path)
        if arguments is None:
            super()._parse_ckpt_path()
        elif arguments:
            chosen = {"class_path": model.class_path, "init_args": arguments}
            self.config = self.parser.parse_object({self.config.subcommand: {"model": chosen}}, self.config)

    def _set_seed(self) -> None:
        """What needs no trainer draws nothing and has no seed."""
        if self.subcommand not in _WITHOUT_TRAINER:
            super()._set_seed()

    def _setup_parser_kwargs(self, parser_kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Lightning sorts out arguments for the parsers of ``subcommands()``, which lacks what is added by hand."""
        others = {key: value for key, value in parser_kwargs.items() if key not in _BY_HAND}
        main, by_subcommand = super()._setup_parser_kwargs(others)
        return main, {**by_subcommand, **{name: parser_kwargs.get(name, {}) for name in _BY_HAND}}

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        """Lightning's hook takes trainer methods only; a sweep makes many trainers and others none."""
        super()._add_subcommands(parser, **kwargs)
        sweep_parser = self.init_parser(**{"description": SWEEP_HELP, **kwargs["sweep"]})
        self._add_arguments(sweep_parser)
        self._subcommand_method_arguments["sweep"] = sweep_parser.add_class_arguments(SweepOptions, as_group=True)
        report_parser = self.parser_class(**{"description": REPORT_HELP, **kwargs["report"]})
        self._subcommand_method_arguments["report"] = report_parser.add_function_arguments(write_report, as_group=False)
        ls_parser = self.parser_class(**{"description": LS_HELP, **kwargs["ls"]})
        add_ls_arguments(ls_parser)
        assert parser._subcommands_action is not None
        parsers = {
            "sweep": (sweep_parser, SWEEP_HELP),
            "report": (report_parser, REPORT_HELP),
            "ls": (ls_parser, LS_HELP),
        }
        for name, (own, text) in parsers.items():
            self._subcommand_parsers[name] = own
            parser._subcommands_action.add_subcommand(name, own, help=text)

    def _run_subcommand(self, subcommand: str) -> None:
        if subcommand == "sweep":
            self._run_sweep()
        elif subcommand == "report":
            self._run_report()
        elif subcommand == "ls":
            self._run_ls()
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
            self._subcommand_parsers["sweep"].error(visible(str(error), lines=True))

    def _run_report(self) -> None:
        options = {name: self.config.report[name] for name in self._subcommand_method_arguments["report"]}
        try:
            path = write_report(**options)
        except (ValueError, OSError) as error:
            self._subcommand_parsers["report"].error(visible(str(error), lines=True))
        print(visible(f"Saved to {path}"))

    def _run_ls(self) -> None:
        try:
            run_ls(self.config.ls)
        except (ValueError, FileNotFoundError) as error:
            self._subcommand_parsers["ls"].error(visible(str(error), lines=True))

    def _take_defaults_from_ingredients(
        self, parser: LightningArgumentParser, args: ArgsType, imports: NamedImports
    ) -> str | None:
        """Complete the parsers of ``cook`` and ``study``; returns a sentence about it when there was something."""
        subparsers = getattr(self, "_subcommand_parsers", {})  # none with run=False
        try:
            seen = peek(parser, subparsers, args)
        except MisconfigurationException as error:
            parser.error(visible(str(error), lines=True))
        subcommand = seen.get("subcommand")
        if subcommand not in ("cook", "study") or seen[subcommand].get("ingredients") is None:
            return None
        config, own = seen[subcommand], subparsers[subcommand]
        by_class_path = {"model": self.subclass_mode_model, "data": self.subclass_mode_data}
        taken = []
        try:
            self._found = find_ingredients(config["ingredients"], config.get("initialization"))
            if not self._found:
                settle(self._found.left_out, "skip", left=0)
            selected = self._found if config.get("where") is None else self._found.where(config["where"])
            first = first_that_opens(selected or self._found, folders_of(self._found), imports)
            for key in PARTS:
                given = config.get(f"{key}.class_path")
                any_class = by_class_path[key]
                if first.set_default_class(own, key, given) if any_class else first.set_defaults_of_class(own, key):
                    taken.append(key)
        except (ValueError, FileNotFoundError, MisconfigurationException) as error:
            own.error(visible(str(error), lines=True))
        what = " and ".join(f"the {key}" for key in taken).capitalize() + (" is" if len(taken) == 1 else " are")
        return f"{what} built as for {str(first.path)!r}, where nothing else is given." if taken else None

    def _run_with_ingredients(self, subcommand: str) -> None:
        assert isinstance(self.trainer, SoupTrainer)
        arguments = self._prepare_subcommand_kwargs(subcommand)
        initialization = arguments.pop("initialization")
        try:
            arguments["ingredients"] = find_ingredients(self._found or arguments["ingredients"], initialization)
        except (ValueError, FileNotFoundError) as error:
            self._subcommand_parsers[subcommand].error(visible(str(error), lines=True))
        try:
            if subcommand == "cook":
                show_soup(self.trainer.cook(**arguments))
            else:
                show_study(self.trainer.study(**arguments))
        except (MisconfigurationException, ValueError, OSError) as error:
            if not is_ours(error):
                raise
            self._subcommand_parsers[subcommand].error(visible(str(error), lines=True))


def main() -> None:
    """Entry point of ``lightning-soup``: any model and data by ``class_path``, your own included."""
    if not faulthandler.is_enabled() and sys.__stderr__ is not None:
        with suppress(OSError):  # it has no file
            # says where, when a file that is mapped into memory is truncated and the system ends the process at once
            faulthandler.enable(sys.__stderr__)
    if os.getcwd() not in sys.path:  # a console script does not see modules in the working directory otherwise
        sys.path.insert(0, os.getcwd())
    SoupCLI()
