"""Recipes: algorithms that choose a mixture. One file each; they know nothing of Lightning."""

from lightning_soups.recipes.greedy import GreedySoup
from lightning_soups.recipes.recipe import Recipe
from lightning_soups.recipes.uniform import UniformSoup

__all__ = ["GreedySoup", "Recipe", "UniformSoup"]
