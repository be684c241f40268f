"""Studies: measurements over mixtures that end in a table and a figure; one file each, and none knows of Lightning."""

from lightning_soups.studies.angle_advantage import AngleAdvantage
from lightning_soups.studies.comparison import Comparison
from lightning_soups.studies.diagnosis import Diagnosis
from lightning_soups.studies.ensemble_versus_soup import EnsembleVersusSoup
from lightning_soups.studies.in_versus_out import InVersusOut
from lightning_soups.studies.interpolation import Interpolation
from lightning_soups.studies.loss_plane import LossPlane
from lightning_soups.studies.number_of_models import NumberOfModels
from lightning_soups.studies.result import StudyResult
from lightning_soups.studies.study import Findings, Study

__all__ = [
    "AngleAdvantage",
    "Comparison",
    "Diagnosis",
    "EnsembleVersusSoup",
    "Findings",
    "InVersusOut",
    "Interpolation",
    "LossPlane",
    "NumberOfModels",
    "Study",
    "StudyResult",
]
