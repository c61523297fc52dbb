"""The green recipe: train with fewer numbers, fewer tokens and fewer steps."""

from clisonix.train.recipe.config import Recipe, RecipeConfig
from clisonix.train.recipe.factors import factorised
from clisonix.train.recipe.stopping import NoFurtherGain

__all__ = ["NoFurtherGain", "Recipe", "RecipeConfig", "factorised"]
