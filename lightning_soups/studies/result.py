"""The result of a study: a table, what it means, and where it comes from; saved as JSON and CSV."""

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from lightning_soups.files import replacing_all, to_json
from lightning_soups.paths import AnyPath, any_path
from lightning_soups.score import Mode, validate_mode
from lightning_soups.weights.formats.plain_json import read_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = str | float | int | bool | None
FORMAT = 1


@dataclass(frozen=True)
class StudyResult:
    """What a study found, and where it comes from.

    Args:
        study: Name of the study's class.
        options: What the study was told.
        rows: The table: dictionaries with the same keys.
        conclusions: Sentences that say what the numbers mean.
        models: By the name of a model in the table the coefficients that it is mixed with, by checkpoint; by layer
            (``layers``) where they differ.
        details: More numbers, by name.
        monitor: The held-out metric that choices were made by.
        metric: The test metric that is reported.
        mode: Whether more or less of ``metric`` is better.
        in_distribution: Names of test datasets that are like the training data.
        shifted: Names of the other test datasets.
        ingredients: The checkpoints, with their recorded hyperparameters and metrics.
        caveats: Why numbers may not be exact.
        versions: Of the packages that were used.
        created: When, ISO 8601.
    """

    study: str
    options: Mapping[str, Any]
    rows: tuple[dict[str, Cell], ...]
    conclusions: tuple[str, ...]
    models: Mapping[str, Any]
    details: Mapping[str, Any]
    monitor: str
    metric: str
    mode: Mode
    in_distribution: tuple[str, ...]
    shifted: tuple[str, ...]
    ingredients: tuple[dict[str, Any], ...]
    caveats: tuple[str, ...]
    versions: Mapping[str, str]
    created: str
    path: AnyPath | None = field(default=None, compare=False)

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of all test datasets, those that are in distribution first."""
        return (*self.in_distribution, *self.shifted)

    def save(self, stem: str | os.PathLike[str] | AnyPath, figure: "Figure | None" = None) -> AnyPath:
        """Write ``<stem>.json``, which :meth:`load` reads, and the table as ``<stem>.csv``: both or none.

        Args:
            stem: A path without suffix.
            figure: Written as ``<stem>.png`` and ``<stem>.svg`` along with them.

        Returns:
            The JSON file.

        Raises:
            WriteError: They cannot be written; the files of an earlier study are as they were.
        """
        content = asdict(self)
        del content["path"]
        stem = any_path(stem, "stem")
        kinds = ["csv", *(() if figure is None else ("png", "svg")), "json"]
        paths = [stem.with_name(f"{stem.name}.{kind}") for kind in kinds]
        with replacing_all(*paths) as (table, *drawn, told):
            table.write_text(self.to_csv(), encoding="utf-8", newline="")
            if figure is not None:
                from lightning_soups.figures import write_figure

                for file, kind in zip(drawn, kinds[1:], strict=False):
                    write_figure(figure, file, kind)
            told.write_text(to_json({"format": FORMAT, **_finite(content)}), encoding="utf-8")
        return paths[-1]

    @classmethod
    def load(cls, path: str | os.PathLike[str] | AnyPath) -> "StudyResult":
        """Read the JSON file of a study.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is not the result of a study.
        """
        path = any_path(path, "path")
        try:
            content = read_json(path)
            if content.pop("format") != FORMAT:
                raise ValueError("it has another format")
            validate_mode(content["mode"])
            tuples = ("rows", "conclusions", "in_distribution", "shifted", "ingredients", "caveats")
            return cls(**{**content, **{name: tuple(content[name]) for name in tuples}}, path=path)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{str(path)!r} is not the result of a study: {error}") from error

    def to_csv(self) -> str:
        """The table as CSV, one line a row after the header."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=columns(self.rows), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()


def columns(rows: Iterable[Mapping[str, Cell]]) -> list[str]:
    """The keys of all rows, in the order in which they come up."""
    return list(dict.fromkeys(key for row in rows for key in row))


def _finite(value: Any) -> Any:
    """JSON has no NaN: None stands for it."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
