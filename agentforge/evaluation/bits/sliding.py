"""The loss of every token of a long text, each with at least a stride of context before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from agentforge.progress import watched

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

    Each but the first scores ``stride`` tokens behind ``context - stride`` that are only read: one at least, because
    the first token of a window is predicted from nothing.
    """
    stride = max(1, min(stride, context - 1))
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
    # The begin token is one more token before the text: it is scored by nobody, and only the first window has it.
    before = [] if begin is None else [begin]
    text = [*before, *ids]
    losses = np.full(len(text), np.nan)
    # As many as fit: with a vocabulary of 150,000 it is the logits that fill the memory.
    batch = max(1, min(batch, LOGITS // (context * model.config.vocab_size)))
    waiting: list[Window] = []
    for window in watched(
        windows(len(text), context, stride), "scoring", "tokens", len(text), lambda window: window.stop - window.scored
    ):
        # Windows of one batch have one length, so nothing is padded and every architecture reads them rightly.
        if waiting and (len(waiting) == batch or window.stop - window.start != waiting[0].stop - waiting[0].start):
            _score(model, text, waiting, losses, impossible)
            waiting = []
        waiting.append(window)
    if waiting:
        _score(model, text, waiting, losses, impossible)
    return losses[len(before) :]


def _score(
    model: Any, text: Sequence[int], chosen: Sequence[Window], losses: NDArray[np.float64], impossible: Sequence[int]
) -> None:
    rows = torch.tensor([text[window.start : window.stop] for window in chosen], device=model.device)
    if rows.shape[1] < 2:
        return
    logits = model(input_ids=rows, use_cache=False).logits[:, :-1].float()
    logits[..., list(impossible)] = -torch.inf
    found = functional.cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none").double().cpu().numpy()
    for window, row in zip(chosen, found, strict=True):
        first = max(window.scored, window.start + 1)  # row[0] is the loss of the window's second token
        losses[first : window.stop] = row[first - window.start - 1 :]
