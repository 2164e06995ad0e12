"""What a recipe says that nobody was asked: lengths, batches, steps, learning rates, each with its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass

from agentforge.planning.first_recipe.look import Look
from agentforge.planning.first_recipe.wishes import Goal
from agentforge.recipe.hardware import Hardware

SMALL_BASE = 50_000_000
"""Parameters up to which all weights are trained: an adapter of a tiny model has no room to learn."""
CPU_SECONDS = 600
"""A first run on a CPU is to end within about ten minutes."""
HELD_OUT_ROWS, HELD_OUT_TEXTS = 20, 4
"""Rows that should be held out, if that is no more than a tenth; texts are long."""
FEWEST = 10
"""Of fewer rows none is held out."""
FEW_ROWS = 500
"""Up to here rows are not packed: packed, they would be a handful of long ones, and so a handful of steps."""


@dataclass(frozen=True)
class Suggestion:
    """Values of a recipe.

    Attributes:
        eval_fraction: 0: there are too few rows to hold any out, and so nothing to evaluate on.
        steps_why: what `max_steps` means, for a comment.
    """

    max_length: int
    eval_fraction: float
    lora: bool
    learning_rate: float
    batch_size: int
    packing: bool
    max_steps: int
    steps_why: str


def suggest(found: Look, hardware: Hardware, parameters: int | None, positions: int | None) -> Suggestion:
    """Return values for a first run.

    Args:
        parameters: of the base; None: unknown, so not small.
        positions: tokens that the base reads; None: unknown.
    """
    documents, cpu = found.goal == "pretrain", not hardware.gpus
    small = is_small(parameters)
    longest = min(256 if cpu and documents else 1024 if cpu else 2048, positions or 2048)
    length = longest if documents else min(longest, 64 * math.ceil(max(found.tokens) / 64))
    batch = 4 if cpu else 8
    packed = found.goal == "sft" and found.rows > FEW_ROWS
    # what a step reads `batch` of: rows, or as many tokens as fit in one
    pieces = math.ceil(found.total_tokens / length) if documents or packed else found.rows
    fraction = held_out_fraction(found)
    per_epoch = max(1, math.ceil(pieces * (1 - fraction) / batch))
    tokens = length if documents or packed else math.ceil(sum(found.tokens) / len(found.tokens))
    seconds = _step_seconds(hardware, parameters, batch * tokens, found.goal)
    steps, why = _steps(per_epoch, cpu, seconds, few=pieces <= FEW_ROWS, most=3 if found.rows < 20_000 else 1)
    lora = not documents and not small
    rate = _learning_rate(found.goal, small, lora)
    return Suggestion(length, fraction, lora, rate, batch, packed, steps, why)


def is_small(parameters: int | None) -> bool:
    """Tell whether all weights of a base are to be trained; one of unknown size is not small."""
    return parameters is not None and parameters <= SMALL_BASE


def held_out_fraction(found: Look) -> float:
    """Return a share under which some `HELD_OUT_ROWS` are held out, at most a tenth of all, but at least two."""
    enough = HELD_OUT_TEXTS if found.goal == "pretrain" else HELD_OUT_ROWS
    if found.prompts is None:
        return min(0.1, max(0.01, round(enough / found.rows, 3)))
    if len(found.prompts) < FEWEST:
        return 0.0
    # A row is held out if its hash is in the lowest share of all; so the share lies between two of the hashes.
    wanted = max(2, min(enough, len(found.prompts) // 10))
    below, above = (found.prompts[i] / 2**64 for i in (wanted - 1, wanted))
    digits = next((n for n in range(2, 17) if below < round((below + above) / 2, n) <= above), 17)
    return round((below + above) / 2, digits)


def _learning_rate(goal: Goal, small: bool, lora: bool) -> float:
    if goal in ("sft", "pretrain"):
        return (2e-3 if goal == "pretrain" else 1e-3) if small else 2e-4 if lora else 5e-5
    return 5e-5 if lora else 1e-5


def _step_seconds(hardware: Hardware, parameters: int | None, tokens: int, goal: Goal) -> float:
    """Return about how long a step takes: 6 operations for each weight and token; of two answers and a reference 16."""
    work = (16 if goal in ("dpo", "kto") else 6) * (parameters or 0) * tokens
    return work / (hardware.peak_flops * hardware.devices * hardware.mfu.mid)


def _steps(per_epoch: int, cpu: bool, seconds: float, *, few: bool, most: int) -> tuple[int, str]:
    """Return how many steps to take, and why.

    Args:
        few: of few rows some epochs are a handful of steps, which change nothing: they are seen more often.
        most: epochs otherwise.
    """
    steps = min(max(most * per_epoch, 200), 30 * per_epoch) if few else most * per_epoch
    limit = int(CPU_SECONDS / seconds) if cpu and seconds else steps
    if limit < steps:
        shown = max(limit, 10)
        return shown, f"{_epochs(shown, per_epoch)}: about ten minutes on a CPU; raise it when you have time"
    return steps, _epochs(steps, per_epoch)


def _epochs(steps: int, per_epoch: int) -> str:
    epochs = steps / per_epoch
    return f"about {f'{epochs:.0f}' if epochs >= 10 else f'{epochs:.2g}'} epochs of {per_epoch} steps"
