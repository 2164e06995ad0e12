"""Is a GGUF the model it was made from? It must load, read texts alike, stop alike and predict alike."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from agentforge.errors import CheckRefused, UserError
from agentforge.export.compare import Agreement, tokenizer_texts
from agentforge.export.llama_cpp import library
from agentforge.recipe.schema import Quantization, Recipe


@contextmanager
def opened(file: Path, context: int) -> Iterator[Any]:
    """Open a GGUF that gives the logits of every position.

    Raises:
        CheckRefused: llama.cpp cannot load it.
    """
    llama_cpp = library()
    try:
        sizes = dict.fromkeys(("n_ctx", "n_batch", "n_ubatch"), context)
        model = llama_cpp.Llama(str(file), **sizes, logits_all=True, verbose=False)
    except (ValueError, AssertionError) as error:
        raise CheckRefused(f"llama.cpp cannot load {file.name} ({error}); it was not published") from None
    try:
        yield model
    finally:
        model.close()
        gc.collect()


def gguf_logits(model: Any, rows: Sequence[Sequence[int]]) -> Iterator[np.ndarray]:
    """Yield float32 logits (T, V) of each row."""
    for row in rows:
        model.reset()
        model.eval(row)
        yield model.scores[: len(row)].copy()


def check_tokenizer(model: Any, tokenizer: Any, template: str | None) -> None:
    """Refuse a GGUF whose tokenizer, stop token or chat template is not the checkpoint's."""
    for text in tokenizer_texts(tokenizer):
        expected = tokenizer.encode(text, add_special_tokens=False)
        found = model.tokenize(text.encode("utf-8"), add_bos=False, special=True)
        if found != expected:
            pairs = enumerate(zip(found, expected, strict=False))
            at = next((index for index, (left, right) in pairs if left != right), min(len(found), len(expected)))
            raise CheckRefused(
                f"the GGUF reads {text!r} as other tokens than the checkpoint: from the {at}th on "
                f"{found[at : at + 8]} instead of {expected[at : at + 8]}; it was not published"
            )
    stop = tokenizer.eos_token_id
    if stop is not None and model.token_eos() != stop:
        raise CheckRefused(
            f"the GGUF stops at token {model.token_eos()}, the checkpoint at {stop}; it was not published"
        )
    if template is not None and model.metadata.get("tokenizer.chat_template") != template:
        raise CheckRefused("the GGUF has another chat template than the checkpoint; it was not published")


def refuse_disagreement(recipe: Recipe, quantization: Quantization, found: Agreement) -> None:
    """Refuse a file whose next-token distributions are too far from the checkpoint's.

    Perplexity is not looked at: it hardly moves, or improves, where KL and top-1 show the damage.
    """
    limits = recipe.export
    if quantization not in limits.max_kl or quantization not in limits.min_top1:
        raise UserError(f"export.max_kl and export.min_top1 must each have a bound for {quantization}")
    max_kl, min_top1 = limits.max_kl[quantization], limits.min_top1[quantization]
    if found.kl > max_kl or found.top1 < min_top1:
        raise CheckRefused(
            f"{recipe.full_name}-{quantization} disagrees with its checkpoint on {found.tokens} tokens: "
            f"KL {found.kl:.3g} nats a token (export.max_kl {max_kl:g}), same top token {found.top1:.1%} "
            f"(export.min_top1 {min_top1:.1%}), max logit difference {found.max_difference:.3g}; it was not published"
        )
