"""The typed recipe: schema, loading, and errors that name the key."""

from agentforge.recipe.loading import load_recipe
from agentforge.recipe.schema import Recipe

__all__ = ["Recipe", "load_recipe"]
