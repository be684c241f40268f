"""Model soups for PyTorch Lightning: one better model from the runs that a sweep throws away."""

from lightning_soups.bad_ingredients import BadIngredientError
from lightning_soups.callback import SoupCallback
from lightning_soups.cli import SoupCLI
from lightning_soups.ingredient import Ingredient
from lightning_soups.ingredients import Ingredients
from lightning_soups.mixture import Mixture
from lightning_soups.recipes import GreedySoup, LearnedSoup, ModelStock, PrunedSoup, Recipe, UniformSoup, WiseFT
from lightning_soups.soup import Soup
from lightning_soups.studies import (
    AngleAdvantage,
    Comparison,
    Diagnosis,
    EnsembleVersusSoup,
    Interpolation,
    InVersusOut,
    LossPlane,
    NumberOfModels,
    Study,
    StudyResult,
)
from lightning_soups.trainer import SoupTrainer

__all__ = [
    "AngleAdvantage",
    "BadIngredientError",
    "Comparison",
    "Diagnosis",
    "EnsembleVersusSoup",
    "GreedySoup",
    "InVersusOut",
    "Ingredient",
    "Ingredients",
    "Interpolation",
    "LearnedSoup",
    "LossPlane",
    "Mixture",
    "ModelStock",
    "NumberOfModels",
    "PrunedSoup",
    "Recipe",
    "Soup",
    "SoupCLI",
    "SoupCallback",
    "SoupTrainer",
    "Study",
    "StudyResult",
    "UniformSoup",
    "WiseFT",
]
