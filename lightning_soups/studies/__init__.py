"""Studies: measurements over mixtures that end in a table and a figure; one file each, and none knows of Lightning."""

from lightning_soups.studies.interpolation import Interpolation
from lightning_soups.studies.result import StudyResult
from lightning_soups.studies.study import Findings, Study

__all__ = ["Findings", "Interpolation", "Study", "StudyResult"]
