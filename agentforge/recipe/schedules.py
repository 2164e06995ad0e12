"""Which options each learning-rate schedule of transformers takes; the parent asks when the model is loaded."""

from __future__ import annotations

import json
from typing import Any

from agentforge.errors import did_you_mean
from agentforge.recipe.arguments import show_value

# `lr_scheduler_type` to the options it needs and those it may have. A test compares them with the pinned transformers.
OPTIONS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "linear": (frozenset(), frozenset()),
    "constant": (frozenset(), frozenset()),
    "constant_with_warmup": (frozenset(), frozenset()),
    "cosine": (frozenset(), frozenset({"num_cycles"})),
    "cosine_with_restarts": (frozenset(), frozenset({"num_cycles"})),
    "polynomial": (frozenset(), frozenset({"lr_end", "power"})),
    "inverse_sqrt": (frozenset(), frozenset({"timescale"})),
    "cosine_with_min_lr": (frozenset(), frozenset({"num_cycles", "min_lr", "min_lr_rate"})),
    "cosine_warmup_with_min_lr": (
        frozenset(),
        frozenset({"num_cycles", "min_lr", "min_lr_rate", "warmup_lr_rate"}),
    ),
    "warmup_stable_decay": (
        frozenset({"num_decay_steps"}),
        frozenset({"num_stable_steps", "warmup_type", "decay_type", "min_lr_ratio", "num_cycles"}),
    ),
}
CHOICES = dict.fromkeys(("warmup_type", "decay_type"), ("linear", "cosine", "1-sqrt"))
ONE_OF = {name: ("min_lr", "min_lr_rate") for name in ("cosine_with_min_lr", "cosine_warmup_with_min_lr")}


def schedule_problem(args: dict[str, Any]) -> str | None:
    """Return why `lr_scheduler_kwargs` does not fit `lr_scheduler_type`, without the key; None: it does.

    Args:
        args: `train.args`, checked one by one.
    """
    schedule, options = args.get("lr_scheduler_type", "linear"), args.get("lr_scheduler_kwargs") or {}
    if isinstance(options, str):  # the parent reads text as JSON
        try:
            options = json.loads(options)
        except ValueError:
            return "is text that is no JSON; give a mapping"
    if schedule not in OPTIONS or not isinstance(options, dict):
        return None
    needed, optional = OPTIONS[schedule]
    known = sorted(needed | optional)
    for name in options:
        if name not in known:
            hint = did_you_mean(str(name), known) or f"; it takes {', '.join(known) or 'none'}"
            return f"has '{name}', which the schedule {schedule} does not take{hint}"
        choices, value = CHOICES.get(name), options[name]
        if choices is not None and value not in choices:
            return f"has {name} {show_value(value)}; it must be one of {', '.join(choices)}"
        if choices is None and (isinstance(value, bool) or not isinstance(value, int | float)):
            return f"has {name} {show_value(value)}; it must be a number"
    if lacking := sorted(needed - options.keys()):
        return f"lacks {lacking[0]}, without which the schedule {schedule} cannot be made; give it"
    if (pair := ONE_OF.get(schedule)) and sum(name in options for name in pair) != 1:
        return f"must have either {pair[0]} or {pair[1]} for the schedule {schedule}"
    return None
