"""The loss of every token of a long text, each with at least a stride of context before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

LOGITS = 1 << 27
"""Logits that are held at once: half a GiB in float32."""


@dataclass(frozen=True)
class Window:
    """Tokens that are read together.

    Attributes:
        start, stop: which are read.
        scored: the first of them that counts; those before it are context that an earlier window has scored.
    """

    start: int
    stop: int
    scored: int


def windows(length: int, context: int, stride: int) -> Iterator[Window]:
    """Yield windows that together score each of ``length`` tokens once.

    Each but the first scores ``stride`` tokens behind ``context - stride`` that are only read.
    """
    scored = 0
    while scored < length:
        stop = min(context if scored == 0 else scored + stride, length)
        yield Window(max(stop - context, 0), stop, scored)
        scored = stop


@torch.inference_mode()
def token_losses(
    model: Any,
    ids: Sequence[int],
    *,
    context: int,
    stride: int,
    begin: int | None,
    impossible: Sequence[int],
    batch: int,
) -> NDArray[np.float64]:
    """Return (tokens,) the loss of each token in nats; NaN for the first where nothing can stand before it.

    Args:
        model: a causal language model.
        ids: of the whole text.
        context: tokens that the model reads at once, ``begin`` included.
        stride: tokens that each window scores.
        begin: token that stands before the text; None: the first token is not scored.
        impossible: special tokens, which a text cannot have: they get no probability.
        batch: windows at once.
    """
    room = context - (begin is not None)
    losses = np.full(len(ids), np.nan)
    waiting: list[Window] = []
    vocabulary = model.config.vocab_size
    # As many as fit: with a vocabulary of 150,000 it is the logits that fill the memory.
    batch = max(1, min(batch, LOGITS // (context * vocabulary)))
    for window in [*windows(len(ids), room, min(stride, room))]:
        # Windows of one batch have one length, so nothing is padded and every architecture reads them rightly.
        if waiting and window.stop - window.start != waiting[0].stop - waiting[0].start:
            _score(model, ids, waiting, losses, begin, impossible)
            waiting = []
        waiting.append(window)
        if len(waiting) == batch:
            _score(model, ids, waiting, losses, begin, impossible)
            waiting = []
    if waiting:
        _score(model, ids, waiting, losses, begin, impossible)
    return losses


def _score(
    model: Any,
    ids: Sequence[int],
    chosen: Sequence[Window],
    losses: NDArray[np.float64],
    begin: int | None,
    impossible: Sequence[int],
) -> None:
    before = [] if begin is None else [begin]
    rows = torch.tensor([[*before, *ids[window.start : window.stop]] for window in chosen], device=model.device)
    logits = model(input_ids=rows, use_cache=False).logits[:, :-1].float()
    logits[..., list(impossible)] = -torch.inf
    found = functional.cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none").double().cpu().numpy()
    for window, row in zip(chosen, found, strict=True):
        first = window.start if begin is not None else window.start + 1  # the token that row[0] is the loss of
        counted = max(window.scored, first)
        losses[counted : window.stop] = row[counted - first :]
