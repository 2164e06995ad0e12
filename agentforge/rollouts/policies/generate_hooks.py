"""Hooks into `generate` of transformers: each row's own random numbers, and each row's own end."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from agentforge.rollouts.policies.base import OnToken, Request, Sampling
from agentforge.rollouts.policies.sampling import draw_next
from agentforge.rollouts.policies.steering import Steering


class Drawing(LogitsProcessor):
    """Draws each row's next token by its own seed, and leaves `generate` no other choice.

    Attributes:
        logprobs: of the tokens drawn, by step and row.
    """

    def __init__(self, requests: Sequence[Request], sampling: Sampling) -> None:
        self.sampling = sampling
        self._requests = requests
        self._width = max(len(request.token_ids) for request in requests)
        self.randoms = [Random(request.seed) for request in requests]
        self.logprobs: list[list[float]] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any) -> Any:
        uniforms = [random.random() for random in self.randoms]
        # `input_ids` is padded in front, and padding must not be taken for a token that was said
        written = input_ids[:, self._width :].tolist()
        contexts = ([*r.token_ids, *new] for r, new in zip(self._requests, written, strict=True))
        tokens, logprobs = draw_next(scores, self.sampling, uniforms, contexts)
        self.logprobs.append(logprobs)
        # All but the drawn token are impossible, so a greedy `generate` takes it and the global generator is never
        # used.
        chosen = torch.tensor(tokens, device=scores.device)[:, None]
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen, 0.0)


class Steered(LogitsProcessor):
    """Lets a `Steering` draw the one row's next token, and leaves `generate` no other choice."""

    def __init__(self, steering: Steering) -> None:
        self.steering = steering

    def __call__(self, input_ids: torch.Tensor, scores: Any) -> Any:
        token = self.steering.choose(scores[0])
        return torch.full_like(scores, -torch.inf).index_fill_(-1, torch.tensor([token], device=scores.device), 0.0)


class Watch(StoppingCriteria):
    """Hands every new token to ``on_token`` and ends the rows for which it says so.

    Attributes:
        ended: row to the number of tokens it had written when it was ended.
    """

    def __init__(self, rows: list[int], stop_ids: frozenset[int], on_token: OnToken) -> None:
        self.rows = rows
        self.stop_ids = stop_ids
        self.on_token = on_token
        self.ended: dict[int, int] = {}
        self._steps = 0
        self._done = [False] * len(rows)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self._steps += 1
        for index, (row, token) in enumerate(zip(self.rows, input_ids[:, -1].tolist(), strict=True)):
            if self._done[index]:
                continue
            if token in self.stop_ids:
                self._done[index] = True
            elif self.on_token(row, token):
                self._done[index] = True
                self.ended[row] = self._steps
        return torch.tensor(self._done, device=input_ids.device)
