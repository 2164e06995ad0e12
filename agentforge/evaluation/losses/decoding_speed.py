"""What it costs to decode a token: all ways take turns on the same prompts, so a busy machine slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TOKENS, TURNS, PROMPTS, CONTEXT = 24, 3, 4, 32

Decode = Callable[[Tensor, int], Any]
"""Continues ids `(1, T)` by exactly that many tokens."""


@dataclass(frozen=True)
class Speed:
    """Milliseconds a token of greedy decoding at batch size 1, the prompt's own pass left out.

    Attributes:
        cpu: time of all threads of this process.
        wall: elapsed time.
    """

    cpu: float
    wall: float


def decoding_speed(prompts: Sequence[Sequence[int]], ways: Mapping[str, Decode], device: Any) -> dict[str, Speed]:
    """Time each way, on average over the prompts (see `prompt_speeds`)."""
    return {
        name: Speed(*(sum(kind) / len(speeds) for kind in zip(*((s.cpu, s.wall) for s in speeds), strict=True)))
        for name, speeds in prompt_speeds(prompts, ways, device).items()
    }


def prompt_speeds(prompts: Sequence[Sequence[int]], ways: Mapping[str, Decode], device: Any) -> dict[str, list[Speed]]:
    """Time each way on each prompt.

    A prompt is continued by 1 and by 1 + `TOKENS` tokens; of `TURNS` turns the fastest counts, because whatever
    else runs on the machine only adds time.
    """
    inputs = [torch.tensor([list(prompt)], device=device) for prompt in prompts]
    best: dict[tuple[str, int, int], tuple[float, float]] = {}
    for _ in range(TURNS):
        for number, ids in enumerate(inputs):
            for name, decode in ways.items():
                for new in (1, TOKENS + 1):
                    key = name, number, new
                    cpu, wall = _timed(decode, ids, new)
                    known = best.get(key, (cpu, wall))
                    best[key] = min(known[0], cpu), min(known[1], wall)

    def per_token(name: str, number: int) -> Speed:
        # The difference of the two lengths: reading the prompt and starting up are in both, and cancel out.
        long, short = best[name, number, TOKENS + 1], best[name, number, 1]
        cpu, wall = (1e3 * (whole - start) / TOKENS for whole, start in zip(long, short, strict=True))
        return Speed(cpu, wall)

    return {name: [per_token(name, number) for number in range(len(inputs))] for name in ways}


def _timed(decode: Decode, ids: Tensor, new: int) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    decode(ids, new)
    if ids.is_cuda:
        # CUDA calls return before the work is done: without this, only their launch would be timed.
        torch.cuda.synchronize()
    return time.process_time() - cpu, time.perf_counter() - wall
