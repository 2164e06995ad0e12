"""What a step of nested training costs beside the full model: narrow widths, exits, a teacher."""

from __future__ import annotations

from fractions import Fraction

from agentforge.errors import UserError
from agentforge.planning.parameters import count_parameters
from agentforge.planning.shapes import maker_of, shape_of
from agentforge.planning.sizes import Shape
from agentforge.planning.step_work import StepWork
from agentforge.recipe.schema import Model, Recipe
from agentforge.recipe.section import keys_of
from agentforge.systems.adamba.recipe_sections import AdambaTrain, Nested


def step_work(recipe: Recipe, shape: Shape) -> StepWork:
    """Return what the recipe's objectives add to a step."""
    train = keys_of(recipe.train, AdambaTrain)
    exits = train.exits
    heads = 0 if exits is None else 1 if exits.rotate else len(exits.layers)
    # with scale 0 only the gates learn: the head reads, and has no gradient
    per_parameter = 6.0 if exits is not None and exits.scale else 2.0
    return StepWork(
        passes=tuple((shape.scaled(width), share) for width, share in widths_of_a_step(train.nested)),
        kept=tuple(shape.scaled(width) for width in widths_at_once(train.nested)),
        head_flops=per_parameter * heads * shape.vocab_size * shape.hidden_size,
        teacher=_teacher(recipe, train),
        in_blocks=bool(train.nested or exits or train.distill),
        undivided=_undivided(train),
        purpose=_new_parameters(recipe, shape) if train.expanded else None,
    )


def _undivided(train: AdambaTrain) -> str | None:
    keys = [key for key in ("nested", "exits", "distill", "expanded") if getattr(train, key)]
    return f"train.{keys[0]} reads parts of whole matrices in a loss of its own" if keys else None


def widths_of_a_step(nested: Nested | None) -> list[tuple[Fraction, float]]:
    """Return the narrow widths and how often a step has each on average, by the sandwich rule.

    A mix of widths counts as one between the narrowest and the full one, of which nobody knows more.
    """
    if nested is None:
        return []
    *between, narrowest = sorted({Fraction(width) for width in nested.widths}, reverse=True)
    between += [(1 + narrowest) / 2] if nested.mix_and_match else []
    drawn = min(nested.random, len(between))
    return [(narrowest, 1.0), *((width, drawn / len(between)) for width in between)]


def widths_at_once(nested: Nested | None) -> list[Fraction]:
    """Return the narrow widths that one step trains at most: the widest that it can draw, and the narrowest."""
    if nested is None:
        return []
    *between, narrowest = sorted({Fraction(width) for width in nested.widths}, reverse=True)
    return [*between[: nested.random], narrowest]


def _teacher(recipe: Recipe, train: AdambaTrain) -> Shape | None:
    if train.distill is None:
        return None
    return shape_of(recipe.model_copy(update={"model": Model(path=train.distill.teacher)}))


def _new_parameters(recipe: Recipe, shape: Shape) -> int | None:
    """Return how many parameters expansion added; None: nothing here says what the model was before."""
    path = recipe.model.path
    if path is None or (maker := maker_of(path)) is None:
        return None
    try:
        return count_parameters(shape).total - count_parameters(shape_of(maker[1])).total
    except UserError:
        return None
