"""What trains slower than a dense bf16 model with as many operations."""

from __future__ import annotations

from agentforge.planning.constants import HYBRID_TIME, NF4_TIME
from agentforge.planning.cost import Range
from agentforge.planning.sizes import Shape
from agentforge.recipe.schema import Recipe


def slowdown(recipe: Recipe, shape: Shape) -> tuple[Range, str]:
    """Return the factor on the hours of training, and what to say of it ("" if it is 1)."""
    factor, why = Range(1.0, 1.0, 1.0), ""
    # Weights are unpacked from 4 bits before each product; a scan moves more memory than it computes.
    reasons = {"nf4": (recipe.model.quantize is not None, NF4_TIME), "Mamba's scan": (has_scan(shape), HYBRID_TIME)}
    for name, (applies, constant) in reasons.items():
        if applies:
            factor = factor * constant.range
            why += f"; {name} x {constant.range.low:g} to {constant.range.high:g}"
    return factor, why


def has_scan(shape: Shape) -> bool:
    """Tell whether some layers are Mamba's."""
    return shape.mixer is not None or "mamba" in (shape.config or "")
