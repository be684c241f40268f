"""From the config that all trials share to the config of one trial."""

import importlib
from collections.abc import Mapping
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_soups.callback import SoupCallback
from lightning_soups.paths import any_path
from lightning_soups.safe_names import safe_name
from lightning_soups.sweep.trial import trial_seed


class TrialConfigs:
    """Makes trial configs; the shared one gets a ``SoupCallback`` when it has none.

    Args:
        shared: A parsed config; its ``seed_everything`` is an int.
        dirpath: The soup directory; None takes that of the config's ``SoupCallback``.
        monitor: The metric to record by; None takes that of the config's ``SoupCallback``.
        mode: Its direction; None takes that of the config's ``SoupCallback``.

    Raises:
        MisconfigurationException: The config has no ``SoupCallback`` and ``dirpath`` or ``monitor`` is missing.
    """

    def __init__(
        self, shared: Namespace, dirpath: str | None, monitor: str | None, mode: Literal["min", "max"] | None
    ) -> None:
        self._shared = shared.clone()
        callback = _find_callback(self._shared)
        if callback is None:
            callback = _add_callback(self._shared, dirpath, monitor, mode)
        for name, value in {"dirpath": dirpath, "monitor": monitor, "mode": mode}.items():
            if value is not None:
                callback.init_args[name] = value
        self.dirpath = str(callback.init_args.dirpath)
        self.base_seed = int(self._shared.seed_everything)
        own_name = callback.init_args.get("run")
        self._prefix = "trial-" if own_name is None else f"{safe_name(own_name)}-"

    def make(self, number: int, parameters: Mapping[str, Any]) -> Namespace:
        """The config of one trial: its parameters, seed, log folder and run name.

        Args:
            number: The trial's number, which also decides its seed unless ``seed_everything`` varies.
            parameters: Values by config key.
        """
        config = self._shared.clone()
        config.seed_everything = trial_seed(self.base_seed, number)
        root = any_path(config.trainer.default_root_dir or self.dirpath, "default_root_dir")
        folder = f"trials/{number:03d}"
        config.trainer.default_root_dir = str(root / folder)
        for logger in _entries(config.trainer.logger):
            arguments = logger.get("init_args")
            if arguments is not None and arguments.get("save_dir") is not None:
                arguments.save_dir = str(any_path(arguments.save_dir, "save_dir") / folder)
        callback = _find_callback(config)
        assert callback is not None
        callback.init_args.run = self.run_name(number)
        for key, value in parameters.items():
            config[key] = value
        return config

    def run_name(self, number: int) -> str:
        """What a trial's run is called; the callback adds a number if the name is taken."""
        return f"{self._prefix}{number:03d}"

    def is_run_of(self, number: int, run: str) -> bool:
        """Whether a run is that of a trial, with or without the callback's number."""
        return run == self.run_name(number) or run.startswith(f"{self.run_name(number)}-")

    def check(self, parser: ArgumentParser, values: Mapping[str, list[Any]]) -> None:
        """Make sure that the config has every key of the space and accepts its values, before the first trial.

        Args:
            parser: Parses configs of the same keys; must raise instead of exiting.
            values: For every key, what it has to accept.

        Raises:
            ValueError: A key or a value is not accepted; the message names both.
        """
        for key, choices in values.items():
            for value in choices:
                try:
                    parser.parse_object(self.make(0, {key: value}))
                except (ArgumentError, TypeError, KeyError) as error:
                    raise ValueError(f"`space` gives {key!r} the value {value!r}: {error}") from error


def _entries(value: Any) -> list[Namespace]:
    """Lightning takes one object, a list of them, or none; True and False stand for defaults."""
    return [entry for entry in (value if isinstance(value, list) else [value]) if isinstance(entry, Namespace)]


def _find_callback(config: Namespace) -> Namespace | None:
    for entry in _entries(config.trainer.callbacks):
        module, _, name = entry.class_path.rpartition(".")
        if issubclass(getattr(importlib.import_module(module), name), SoupCallback):
            return entry
    return None


def _add_callback(
    config: Namespace, dirpath: str | None, monitor: str | None, mode: Literal["min", "max"] | None
) -> Namespace:
    if dirpath is None or monitor is None:
        raise MisconfigurationException(
            "The config has no SoupCallback, so the sweep has to know where to record and by which metric: pass"
            " `dirpath` and `monitor`, for example --dirpath soups/digits --monitor val_acc."
        )
    arguments = Namespace(dirpath=dirpath, monitor=monitor, mode=mode, run=None)  # type: ignore[no-untyped-call]
    entry = Namespace(class_path="lightning_soups.SoupCallback", init_args=arguments)  # type: ignore[no-untyped-call]
    config.trainer.callbacks = [*_entries(config.trainer.callbacks), entry]
    return entry
