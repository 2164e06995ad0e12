"""One turn drawn token by token, for callers who want more than sampling: a grammar, or the probabilities.

An engine hands the logits of each step to `Steering.choose` and writes the token that it returns. So a request means
the same for a checkpoint and for a GGUF file, whatever the engine's own sampler would have done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from agentforge.rollouts.policies.base import Sampling
from agentforge.rollouts.policies.constraints import TokenConstraint
from agentforge.rollouts.policies.sampling import draw_next


@dataclass(frozen=True)
class Step:
    """A token that was drawn, and its log-probability under the model itself: temperature 1, no filter, no grammar.

    Attributes:
        top: the likeliest tokens with their log-probabilities, likeliest first.
    """

    token: int
    logprob: float
    top: list[tuple[int, float]]


class Steering:
    """Decides every token of one turn.

    Args:
        sampling: its seed decides the draws.
        constraint: what may be written; None: anything.
        top_logprobs: so many likeliest tokens are kept in `steps`; None: no steps are kept.

    Attributes:
        steps: one for each token that was drawn, the stop token with it.
    """

    def __init__(
        self, sampling: Sampling, constraint: TokenConstraint | None = None, top_logprobs: int | None = None
    ) -> None:
        self.sampling = sampling
        self.constraint = constraint
        self.top_logprobs = top_logprobs
        self.steps: list[Step] = []
        self._random = Random(sampling.seed)
        self._context: list[int] = []

    @property
    def is_plain(self) -> bool:
        """Whether the likeliest token is all that is wanted, which any engine gives by itself."""
        sampling = self.sampling
        return (
            sampling.temperature == 0
            and sampling.repetition_penalty == 1
            and self.constraint is None
            and self.top_logprobs is None
        )

    @property
    def needs_logits(self) -> bool:
        """Whether an engine that samples by itself cannot do it."""
        return self.constraint is not None or self.top_logprobs is not None

    def begin(self, prompt: Sequence[int]) -> None:
        """Take the prompt, whose tokens a repetition penalty counts."""
        self._context = list(prompt)

    def choose(self, logits: Tensor) -> int:
        """Return the next token.

        Args:
            logits: `(V,)`, as the model gives them.

        Raises:
            UserError: they are NaN, or the grammar leaves no token.
        """
        # The grammar masks the logits before temperature and filters: they then see only tokens that may come.
        allowed = logits
        if self.constraint is not None:
            mask = self.constraint.allowed(len(logits)).to(logits.device)
            allowed = logits.masked_fill(~mask, -torch.inf)
        (token,), _ = draw_next(allowed[None], self.sampling, [self._random.random()], [self._context])
        if self.constraint is not None:
            self.constraint.take(token)
        if self.top_logprobs is not None:
            # From the logits before the mask: what the model held likely, not what the grammar has left of it.
            self.steps.append(_step(logits, token, self.top_logprobs))
        self._context.append(token)
        return token


def _step(logits: Tensor, token: int, count: int) -> Step:
    logprobs = logits.float().log_softmax(-1)
    best = logprobs.topk(min(count, len(logprobs)))
    top = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return Step(token, float(logprobs[token]), top)
