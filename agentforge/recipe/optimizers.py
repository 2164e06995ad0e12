"""Optimisers that the house brings, for any recipe of any system: names, options, presets. Systems add others.

To add one: write the function ``(model, args, **options) -> torch.optim.Optimizer`` in `optim/`, and its line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from agentforge.recipe.section import Section
from agentforge.references import Reference


class MuGrokfastOptions(Section):
    """Options of `mugrokfast`. Learning rate, weight decay, betas and epsilon are those of `train.args`."""

    preset: Literal["phase1", "phase3", "phase5", "phase6", "phase7"] | None = Field(
        None, description="fills in what neither `options` nor `train.args.learning_rate` says"
    )
    aux_learning_rate: float | None = Field(
        None, gt=0, description="of what AdamW trains; none: `train.args.learning_rate`"
    )
    momentum: float = Field(0.95, ge=0, lt=1, description="of Muon")
    nesterov: bool = True
    every: int = Field(
        1, ge=1, description="a hidden matrix moves in one of so many steps, so many times as far; 2 halves Muon's cost"
    )
    grokfast_lambda: float = Field(0.0, ge=0, description="weight of the slow gradient; 0: no filter")
    grokfast_alpha: float = Field(0.98, ge=0, lt=1, description="decay of the average that is the slow gradient")
    qk_clip: float | None = Field(None, gt=0, description="largest attention logit of a head; none: no QK-Clip")
    adamw: list[str] = Field(default_factory=list, description="patterns of parameter names that Muon must not train")


# The specification's, phase by phase. Its straight-through flag of phase 5 is no matter of an optimiser, which sees
# finished gradients; its KL weights of phases 3 and 7 belong to the loss.
PRESETS: dict[str, dict[str, Any]] = {
    "phase1": {"learning_rate": 1e-3, "grokfast_lambda": 0.3, "qk_clip": 30.0},
    "phase3": {"learning_rate": 5e-4, "grokfast_lambda": 0.1, "qk_clip": 25.0},
    "phase5": {"learning_rate": 1e-3, "grokfast_lambda": 2.0},
    "phase6": {"learning_rate": 1e-4, "grokfast_lambda": 0.2},
    "phase7": {"learning_rate": 5e-4, "grokfast_lambda": 0.15, "qk_clip": 28.0},
}


@dataclass(frozen=True)
class HouseOptimizer:
    """An optimiser of the house.

    Attributes:
        make: function ``(model, args, **options) -> torch.optim.Optimizer``.
        options: what `train.optimizer.options` may hold.
        presets: values that a `preset` fills in; ``learning_rate`` among them stands for `train.args.learning_rate`.
        lora_refusal: why it does not train adapters; None: it does.
    """

    make: Reference
    options: type[Section]
    presets: Mapping[str, Mapping[str, Any]]
    lora_refusal: str | None = None


OPTIMIZERS: dict[str, HouseOptimizer] = {
    "mugrokfast": HouseOptimizer(
        "agentforge.optim.mugrokfast:make_mugrokfast",
        MuGrokfastOptions,
        PRESETS,
        "Muon bounds how far a weight moves, but with B A a step of one factor moves it as far as the other is large",
    )
}


def filled_in(options: Mapping[str, Any], presets: Mapping[str, Mapping[str, Any]] = PRESETS) -> dict[str, Any]:
    """Return options with those of their preset that they leave open; the preset's learning rate is not among them."""
    preset = presets.get(str(options.get("preset")), {})
    return {key: value for key, value in preset.items() if key != "learning_rate"} | dict(options)


def preset_arguments(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a preset says for `train.args`, where the recipe itself says nothing."""
    house = OPTIMIZERS.get(name)
    preset = {} if house is None else house.presets.get(str(options.get("preset")), {})
    return {key: value for key, value in preset.items() if key == "learning_rate"}
