"""The loop: a core of few layers, run again and again on its own output and what the prelude read.

    trm     z = core(z + y + x), `micro_steps` times, then y = core(y + z): a thought, and the answer that follows from
            it (Jolicoeur-Martineau, arXiv 2510.04871, whose network is not causal)
    plain   h = core(h + x): the control

Both start from learned vectors. TRM's layers normalise behind each addition, so its states keep their size. Ours, as
is usual in language models, normalise before each part, and a sum fed back into itself would double with every call;
so the sum is normalised where it enters the core.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from agentforge.systems.cognate.modeling.configuration import CognateConfig
from agentforge.systems.cognate.modeling.layer import rms_norm

Core = Callable[[Tensor, int], Tensor]
"""Runs the core's layers on `(B, T, D)`; the number says which call of this iteration it is, from 0."""


def iterate(config: CognateConfig, core: Core, states: tuple[Tensor, ...], x: Tensor) -> tuple[Tensor, ...]:
    """Return the states after one more iteration; the last of them is what is read.

    Args:
        config: says which recursion.
        core: one run of the shared layers.
        states: (z, y) of ``trm``, (h,) of ``plain``, `(B, T, D)` each.
        x: `(B, T, D)`, what the prelude made of the text.
    """
    if config.recursion == "plain":
        return (core(rms_norm(states[0] + x, config.rms_norm_eps), 0),)
    z, y = states
    for step in range(config.micro_steps):
        z = core(rms_norm(z + y + x, config.rms_norm_eps), step)
    return z, core(rms_norm(y + z, config.rms_norm_eps), config.micro_steps)


def carried(config: CognateConfig, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the states as the next iteration gets them."""
    return tuple(state.detach() for state in states) if config.detach_between_recursions else states


def learns(config: CognateConfig, iteration: int) -> bool:
    """Tell whether gradient is kept for an iteration, counted from 0."""
    return torch.is_grad_enabled() and iteration >= config.no_grad_recursions
