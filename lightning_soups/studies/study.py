"""The contract of a study."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.evaluation.measurer import Measurer
from lightning_soups.ingredients import Ingredients
from lightning_soups.mixture import Mixture
from lightning_soups.recipes.recipe import options_of
from lightning_soups.studies.result import Cell, StudyResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Findings:
    """What a study found.

    Args:
        rows: The table: dictionaries with the same keys, in the order to show.
        conclusions: Sentences that say what the numbers mean, for a reader who sees nothing else.
        models: The mixtures that rows name, by the name.
        details: More that the figure needs, by name; what JSON holds.
    """

    rows: Sequence[Mapping[str, Cell]]
    conclusions: Sequence[str]
    models: Mapping[str, Mixture] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


class Study(ABC):
    """A measurement over mixtures that ends in a table and a figure.

    What is chosen is chosen on the held-out data, in :meth:`choose`; what is reported is measured on the test data
    afterwards, in :meth:`measure`. The two see nothing of each other's data.

    Subclass it; the subclass then works from Python, YAML and the command line like the studies that ship with the
    package. ``__init__`` parameters become command line options.

    Attributes:
        uses_test_data: Whether :meth:`measure` asks for test data at all.
        takes_diverged: Whether the study is about ingredients whose weights or scores are NaN or infinite as well;
            others are not given any.
    """

    uses_test_data: ClassVar[bool] = True
    takes_diverged: ClassVar[bool] = False

    @abstractmethod
    def choose(self, ingredients: Ingredients, evaluator: Evaluator) -> Any:
        """Choose what to measure.

        On several processes every process runs this method, and :meth:`measure`, with the same answers.

        Args:
            ingredients: At least one.
            evaluator: Answers what mixtures score on the held-out data.

        Returns:
            What :meth:`measure` needs to know; it must be picklable.
        """

    @abstractmethod
    def measure(self, plan: Any, measurer: Measurer) -> Findings:
        """Measure what was chosen.

        Args:
            plan: What :meth:`choose` returned.
            measurer: Measures on the test data.
        """

    @abstractmethod
    def draw(self, result: StudyResult) -> "Figure":
        """Draw the figure, from nothing but what is saved.

        Args:
            result: The findings and what is known about them.
        """

    @property
    def name(self) -> str:
        """What to call the study."""
        return type(self).__name__

    @property
    def options(self) -> dict[str, Any]:
        """What the study was told, for the record."""
        return options_of(self)
