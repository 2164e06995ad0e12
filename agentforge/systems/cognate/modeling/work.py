"""How much a model computes: tokens that pass a layer, and floating-point operations, as they are executed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


UNCOUNTED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
"""Attention as a CPU computes it, which torch's counter does not know: it would count nothing (torch 2.13)."""


@dataclass
class Work:
    """What was computed inside `counted_work`.

    Attributes:
        prelude: runs of a layer of the prelude, summed over tokens.
        core: the same of the core; without halting, tokens x iterations x calls x layers.
        flops: of matrix products, convolutions and attention, counted by torch where they are executed.
    """

    prelude: int = 0
    core: int = 0
    flops: int = 0


_COUNTING: ContextVar[Work | None] = ContextVar("_COUNTING", default=None)


@contextmanager
def counted_work() -> Iterator[Work]:
    """Count what every Cognate computes inside the block, in this thread."""
    work = Work()
    token = _COUNTING.set(work)
    try:
        with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as flops:
            yield work
    finally:
        _COUNTING.reset(token)
        work.flops = flops.get_total_flops()


def count(tokens: int, *, core: bool) -> None:
    """Take note that a layer was run on this many tokens."""
    work = _COUNTING.get()
    if work is None:
        return
    if core:
        work.core += tokens
    else:
        work.prelude += tokens
