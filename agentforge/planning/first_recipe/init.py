"""`init`: look at the data, decide what nobody needs to be asked, and write the recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agentforge.data.preview import PreviewRow
from agentforge.planning.first_recipe.bases import size_of
from agentforge.planning.first_recipe.compose import playing_recipe_text, recipe_text, turn_tokens, write_recipe
from agentforge.planning.first_recipe.look import draft, look
from agentforge.planning.first_recipe.prompts import episode_length, longest_prompt
from agentforge.planning.first_recipe.suggest import suggest
from agentforge.planning.first_recipe.wishes import Wishes


@dataclass(frozen=True)
class Made:
    """What `init` did.

    Attributes:
        path: of the recipe.
        found: a sentence about the data.
        shown: rows as the model will see them.
    """

    path: Path
    found: str
    shown: list[PreviewRow]


def init(wishes: Wishes) -> Made:
    """Write ``NAME.yaml``.

    Raises:
        UserError: the data or the base cannot be used.
        CheckRefused: none of the first rows can.
    """
    if wishes.goal == "grpo":
        parameters, positions = size_of(draft(wishes, "grpo", None))
        prompt = longest_prompt(wishes.data, wishes.base)
        length = episode_length(prompt, turn_tokens(wishes), positions, wishes.data)
        path = write_recipe(wishes, playing_recipe_text(wishes, parameters, length, prompt))
        seen = "" if prompt is None else f" with first prompts of up to {prompt:,} tokens"
        return Made(path, f"{wishes.data}: an environment{seen}; goal: grpo", [])
    found = look(wishes)
    parameters, positions = size_of(draft(wishes, found.goal, {"dataset": wishes.data}))
    text = recipe_text(wishes, found, suggest(found, wishes.hardware, parameters, positions))
    said = f"{wishes.data}: about {found.rows:,} rows and {found.total_tokens:,} tokens in the format {found.adapter}"
    return Made(write_recipe(wishes, text), f"{said}; goal: {found.goal}", found.shown)
