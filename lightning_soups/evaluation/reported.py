"""Which of the logged test metrics is reported, and which dataset each value is of."""

import re
from collections.abc import Mapping, Sequence

from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_soups.logged import Logged
from lightning_soups.score import Mode

_VALIDATION = re.compile(r"(?<![A-Za-z])(validation|valid|val)(?![a-z])")  # not in interval or validity
_LIGHTNINGS_OWN = re.compile(r"/dataloader_idx_\d+$")


class Reported:
    """Finds the reported metric of each test dataloader among what a pass has logged.

    A metric may be logged under one name for all dataloaders, to which Lightning adds the dataloader's index, or as
    ``<metric>/<dataset>``, which also names the datasets. What is logged as ``<metric>/<dataset>`` at the end of the
    epoch belongs to no dataloader, and the order in which it was logged is not kept: if there is one for each
    dataloader, datasets come in the order of ``names``, which then have to be those logged, or in alphabetical order.

    Args:
        logged: What the first pass over the test data has logged.
        dataloaders: How many there are.
        metric: What is to be reported; None for the counterpart of ``monitor``.
        monitor: The held-out metric, such as ``val_acc`` or ``validation_acc/dataloader_idx_0``, whose counterpart is
            ``test_acc``.
        names: Names of the datasets; None for those in the logged names, or numbers.

    Attributes:
        metric: The reported metric's name.
        mode: The direction that it declares; None for a plain number.
        like_monitor: Whether it is the counterpart of ``monitor``, so that its direction is, too.
        datasets: Names of the datasets, in the order of the dataloaders if that is known.
        of_known_loaders: Whether it is.

    Raises:
        MisconfigurationException: The metric was not logged for each dataloader, or names are not as many as there are
            dataloaders, or not those logged at the end of the epoch.
    """

    def __init__(
        self,
        logged: Mapping[str, Logged],
        dataloaders: int,
        metric: str | None,
        monitor: str,
        names: Sequence[str] | None,
    ) -> None:
        plain = _LIGHTNINGS_OWN.sub("", monitor)
        counterparts = [monitor, plain, _VALIDATION.sub("test", plain)]
        wanted = [metric] if metric is not None else counterparts
        of_loader = [_of_loader(logged, index, dataloaders) for index in range(dataloaders)]
        self.metric = next((name for name in wanted if all(_matching(of, name) for of in of_loader)), "")
        at_end = {name: keys for name in wanted if len(keys := _at_end(logged, name)) == dataloaders}
        if not self.metric and not at_end:
            raise MisconfigurationException(
                f"{' or '.join(map(repr, dict.fromkeys(wanted)))} was not logged in test_step for each of the"
                f" {dataloaders} test dataloaders. Logged once per epoch were: {sorted(logged)}. Choose what to"
                " report with `metric`; of names such as 'test_acc/shifted' give the part before the slash."
            )
        self.of_known_loaders = bool(self.metric) or names is not None
        if self.metric:
            self._keys = [self._only_one(index, of) for index, of in enumerate(of_loader)]
        else:
            self.metric = next(iter(at_end))
            self._keys = _in_order(at_end[self.metric], names)
        self.like_monitor = self.metric in counterparts
        self.mode: Mode | None = logged[self._keys[0]].mode
        self.datasets = tuple(names) if names is not None else self._default_names(logged)
        if len(self.datasets) != dataloaders or len(set(self.datasets)) != dataloaders:
            raise MisconfigurationException(
                f"`names` needs a different name for each of the {dataloaders} test dataloaders, got"
                f" {list(self.datasets)}."
            )

    def values(self, logged: Mapping[str, Logged]) -> dict[str, float]:
        """The reported metric on each dataset, from what a full pass has logged."""
        return {name: logged[key].value for name, key in zip(self.datasets, self._keys, strict=True)}

    def logged_names(self, logged: Mapping[str, Logged]) -> list[str]:
        """What the module itself calls the metric, for each dataloader."""
        return [logged[key].name for key in self._keys]

    def _only_one(self, index: int, of_loader: Mapping[str, str]) -> str:
        keys = _matching(of_loader, self.metric)
        if len(keys) > 1:
            raise MisconfigurationException(f"Dataloader {index} has several values of {self.metric!r}: {keys}.")
        return keys[0]

    def _default_names(self, logged: Mapping[str, Logged]) -> tuple[str, ...]:
        suffixes = [logged[key].name.removeprefix(self.metric).removeprefix("/") for key in self._keys]
        if len(suffixes) == 1:
            return (suffixes[0] or "test",)
        return tuple(suffix or f"test {index}" for index, suffix in enumerate(suffixes))


def _of_loader(logged: Mapping[str, Logged], index: int, dataloaders: int) -> dict[str, str]:
    """What was logged for a dataloader: the module's own names by the complete ones."""
    own = (None, 0) if dataloaders == 1 else (index,)
    return {key: value.name for key, value in logged.items() if value.dataloader_idx in own}


def _matching(of_loader: Mapping[str, str], metric: str) -> list[str]:
    exact = [key for key, name in of_loader.items() if name == metric]
    return exact or [key for key, name in of_loader.items() if name.startswith(f"{metric}/")]


def _at_end(logged: Mapping[str, Logged], metric: str) -> dict[str, str]:
    """What was logged for no dataloader, as Lightning does at the end of an epoch: complete names by datasets'."""
    start = f"{metric}/"
    return {
        value.name.removeprefix(start): key
        for key, value in logged.items()
        if value.dataloader_idx is None and value.name.startswith(start)
    }


def _in_order(of_datasets: Mapping[str, str], names: Sequence[str] | None) -> list[str]:
    if names is None:
        return list(of_datasets.values())
    if sorted(names) != sorted(of_datasets):
        raise MisconfigurationException(
            f"What is logged at the end of the epoch tells which dataset it is of only by its name, so `names` has to"
            f" list {list(of_datasets)} in the order of the test dataloaders, got {list(names)}."
        )
    return [of_datasets[name] for name in names]
