"""Recipes: algorithms that choose a mixture. One file each; they know nothing of Lightning."""

from lightning_soups.recipes.greedy import GreedySoup
from lightning_soups.recipes.learned import LearnedSoup
from lightning_soups.recipes.model_stock import ModelStock
from lightning_soups.recipes.pruned import PrunedSoup
from lightning_soups.recipes.recipe import Recipe
from lightning_soups.recipes.uniform import UniformSoup
from lightning_soups.recipes.wise_ft import WiseFT

__all__ = ["GreedySoup", "LearnedSoup", "ModelStock", "PrunedSoup", "Recipe", "UniformSoup", "WiseFT"]
