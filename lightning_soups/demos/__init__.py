"""Small real modules and data for the example configs. Needs the ``demo`` extra (scikit-learn, mlxtend)."""

from lightning_soups.demos.digits_data import Digits
from lightning_soups.demos.digits_model import DigitsClassifier

__all__ = ["Digits", "DigitsClassifier"]
