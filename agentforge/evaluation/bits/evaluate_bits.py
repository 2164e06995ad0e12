"""What `evaluate` does with `evaluate.bpc`: the bits per byte of a whole text, beside file compressors on its bytes."""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from agentforge.artifacts import Workspace, write_json
from agentforge.data.codec import begins_texts, codec_of
from agentforge.data.sources.raw_bytes import read_bytes
from agentforge.data.tokenizer import load_tokenizer
from agentforge.errors import UserError
from agentforge.evaluation.bits.compressors import compressed_bits
from agentforge.evaluation.bits.sliding import token_losses
from agentforge.evaluation.own_scores import Figure, Scores
from agentforge.evaluation.statistics.intervals import ratio_t
from agentforge.models.locate_model import ModelLocation
from agentforge.recipe.schema import BitsPerByte, Recipe
from agentforge.rollouts.policies.transformers_policy import load_weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

BITS = "bits.json"
BLOCK = 4096
"""Bytes of the blocks that the interval is over, at most: neighbouring bytes are hard together."""


@dataclass(frozen=True)
class Tokens:
    """A text as a model reads it.

    Attributes:
        ids: of its tokens.
        ends: (tokens,) bytes of the text up to the end of each.
    """

    ids: list[int]
    ends: NDArray[np.int64]


def evaluate_bits(recipe: Recipe, location: ModelLocation, work: Workspace) -> Scores:
    """Measure a model on the recipe's text, and write bits.json with the compressors' figures.

    Raises:
        UserError: a GGUF, no text, or a tokenizer that does not say which bytes its tokens are.
    """
    settings = recipe.evaluate.bpc
    assert settings is not None
    if location.kind == "gguf":
        raise UserError(f"evaluate.bpc reads checkpoints and adapters; {location.path} is a GGUF: name another --model")
    text = read_bytes(settings.text, recipe.data)[: settings.max_bytes]
    tokenizer = load_tokenizer(location.base or location.path)
    tokens = tokens_of(text, tokenizer)
    model: Any = load_weights(location, spread=False)
    model = (model if torch.cuda.is_available() else model.float()).eval()
    started = time.perf_counter()
    losses = token_losses(
        model,
        tokens.ids,
        context=settings.context,
        stride=settings.stride,
        begin=tokenizer.bos_token_id if begins_texts(tokenizer) else None,
        impossible=[token for token in tokenizer.all_special_ids if token < model.config.vocab_size],
        batch=recipe.evaluate.batch_size,
    )
    seconds = time.perf_counter() - started
    figure = bits_figure(losses, tokens, recipe.evaluate.confidence)
    report = _report(settings, recipe, text, figure, seconds)
    write_json(work.path / BITS, report)
    log.info("%s: %.4f bits per byte of %s bytes", location.label, figure.value, f"{figure.n:,}")
    return Scores(_title(settings), measured_on(settings, text), recipe.evaluate.confidence, _figures(figure, report))


def measured_on(settings: BitsPerByte, text: bytes) -> str:
    """Return what makes two figures comparable: the bytes, and how much context each has."""
    digest = hashlib.md5(text, usedforsecurity=False).hexdigest()
    return f"{len(text):,} bytes, md5 {digest}, context {settings.context}, stride {settings.stride}"


def tokens_of(text: bytes, tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """Return a text's tokens.

    Raises:
        UserError: the text is not UTF-8, or decoding the tokens would not give it back.
    """
    from agentforge.evaluation.losses.measure import count_bytes

    try:
        written = text.decode("utf-8")
    except UnicodeDecodeError:
        written = text.decode("utf-8", errors="surrogateescape")
        if getattr(tokenizer, "count_bytes", None) is None:
            raise UserError("evaluate.bpc: the text is not UTF-8, so only a model of bytes can read it") from None
    (ids,) = codec_of(tokenizer).read_plain([written])  # a "<|end|>" in the text is text
    sizes = {token: count_bytes([token], tokenizer) for token in set(ids)}
    if None in sizes.values():
        raise UserError(
            f"evaluate.bpc needs a byte-level tokenizer; {type(tokenizer).__name__} of {tokenizer.name_or_path} does "
            "not say which bytes a token stands for"
        )
    ends = np.cumsum([sizes[token] for token in ids])
    if len(ends) == 0 or ends[-1] != len(text):
        raise UserError(
            f"evaluate.bpc: the tokens of {tokenizer.name_or_path} stand for {int(ends[-1]) if len(ends) else 0:,} "
            f"bytes, the text has {len(text):,}: the tokenizer changes the text, so its bits are not those of the text"
        )
    return Tokens(list(ids), ends.astype(np.int64))


def bits_figure(losses: NDArray[np.float64], tokens: Tokens, confidence: float) -> Figure:
    """Return bits per byte over all tokens that were scored, with an interval over blocks of the text."""
    scored = ~np.isnan(losses)
    sizes = np.diff(tokens.ends, prepend=0)
    # A short text still has blocks enough for an interval.
    length = int(min(BLOCK, max(tokens.ends[-1] // 16, 1)))
    block = (tokens.ends - 1) // length
    count = int(block.max()) + 1
    sums = np.bincount(block[scored], losses[scored] / np.log(2), count).astype(np.float64)
    counts = np.bincount(block[scored], sizes[scored].astype(float), count).astype(np.float64)
    used = counts > 0
    total = int(counts.sum())
    if used.sum() < 2:
        raise UserError(f"evaluate.bpc: an interval needs more text than {int(tokens.ends[-1])} bytes")
    value, low, high = ratio_t(sums[used], counts[used], confidence)
    return Figure(float(value), float(low), float(high), total, chance=8.0, unit="bits per byte")


def _report(settings: BitsPerByte, recipe: Recipe, text: bytes, figure: Figure, seconds: float) -> dict[str, Any]:
    training = read_bytes(settings.training, recipe.data) if settings.training is not None else b""
    return {
        "bytes": len(text),
        "md5": hashlib.md5(text, usedforsecurity=False).hexdigest(),
        "scored": figure.n,
        "context": settings.context,
        "stride": settings.stride,
        "bits_per_byte": figure.value,
        "seconds": round(seconds, 2),
        "compressors": compressed_bits(text, training) if settings.compressors else {},
    }


def _title(settings: BitsPerByte) -> str:
    part = settings.text.part
    where = f", {part[0]:.0%} to {part[1]:.0%}" if part else ""
    return f"bits per byte of {settings.text.dataset}{where}"


def _figures(figure: Figure, report: dict[str, Any]) -> dict[str, Figure]:
    """Return the model's figure and the compressors', which have no interval: they are exact."""
    figures = {"bits": figure}
    for name, bits in report["compressors"].items():
        for kind, value in bits.items():
            label = f"{name}{'' if kind == 'alone' else ' after the training text'}"
            figures[label] = Figure(value, value, value, report["bytes"], unit="bits per byte")
    return figures
