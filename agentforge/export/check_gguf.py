"""Is a GGUF the model it was made from? It must load, read texts alike, stop alike and predict alike."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agentforge.artifacts import write_json
from agentforge.errors import CheckRefused, UserError
from agentforge.export.agreement import Agreement, agreement, tokenizer_texts
from agentforge.export.llama_cpp import ask_llama_cpp
from agentforge.recipe.schema import Quantization, Recipe


@dataclass(frozen=True)
class Reference:
    """What a GGUF is compared with.

    Attributes:
        tokenizer: the checkpoint's.
        template: the chat template that must be in the file, None for a model without one.
        rows: token ids.
        logits: directory with the checkpoint's logits of each row, ``logits-NNN.npy`` (T, V).
    """

    tokenizer: Any
    template: str | None
    rows: Sequence[Sequence[int]]
    logits: Path


def check_file(file: Path, reference: Reference) -> Agreement:
    """Load a GGUF and compare tokenizer, stop token, template and logits with the checkpoint's.

    Raises:
        CheckRefused: it does not load, or reads texts, ends turns or renders conversations differently.
    """
    # Beside the file, where there is room: logits of 512 tokens over a vocabulary of 150,000 are 300 MB.
    scratch = file.with_suffix(".check")
    scratch.mkdir()
    try:
        texts = tokenizer_texts(reference.tokenizer)
        write_json(scratch / "questions.json", {"rows": reference.rows, "texts": texts})
        ask_llama_cpp("examine", file, scratch / "questions.json", scratch)
        answers = json.loads((scratch / "answers.json").read_text(encoding="utf-8"))
        # The tokens first: if a text is read as other tokens, equal logits mean nothing.
        check_answers(answers, texts, reference)
        return agreement(saved_logits(reference.logits), saved_logits(scratch))
    finally:
        shutil.rmtree(scratch)


def saved_logits(directory: Path) -> Iterator[np.ndarray]:
    """Yield the logits of each row; one row of a large vocabulary is hundreds of megabytes."""
    for file in sorted(directory.glob("logits-*.npy")):
        yield np.load(file)


def check_answers(answers: dict[str, Any], texts: Sequence[str], reference: Reference) -> None:
    """Refuse a GGUF whose tokenizer, stop token or chat template is not the checkpoint's."""
    for text, found in zip(texts, answers["tokens"], strict=True):
        # Token by token: a converter that mistakes the pre-tokenizer gets most texts right and a few wrong.
        expected = reference.tokenizer.encode(text, add_special_tokens=False)
        if found != expected:
            pairs = enumerate(zip(found, expected, strict=False))
            at = next((index for index, (left, right) in pairs if left != right), min(len(found), len(expected)))
            raise CheckRefused(
                f"the GGUF tokenises {text!r} differently than the checkpoint: from token {at} on "
                f"{found[at : at + 8]} instead of {expected[at : at + 8]}; it was not published"
            )
    stop = reference.tokenizer.eos_token_id
    if stop is not None and answers["eos"] != stop:
        raise CheckRefused(
            f"the GGUF stops at token {answers['eos']}, but the checkpoint at {stop}; it was not published"
        )
    if reference.template is not None and answers["metadata"].get("tokenizer.chat_template") != reference.template:
        raise CheckRefused("the GGUF's chat template differs from the checkpoint's; it was not published")


def refuse_disagreement(recipe: Recipe, quantization: Quantization, found: Agreement) -> None:
    """Refuse a file whose next-token distributions are too far from the checkpoint's.

    Perplexity is not looked at: it hardly moves, or improves, where KL and top-1 show the damage.
    """
    limits = recipe.export
    if quantization not in limits.max_kl or quantization not in limits.min_top1:
        raise UserError(f"export.max_kl and export.min_top1 must each have a bound for {quantization}")
    max_kl, min_top1 = limits.max_kl[quantization], limits.min_top1[quantization]
    # Both are needed: KL averages away a few flipped tokens, top-1 misses a distribution that is flattened everywhere.
    if found.kl > max_kl or found.top1 < min_top1:
        raise CheckRefused(
            f"{recipe.full_name}-{quantization} disagrees with its checkpoint on {found.tokens} tokens: "
            f"KL {found.kl:.3g} nats per token (export.max_kl {max_kl:g}), same top token {found.top1:.1%} "
            f"(export.min_top1 {min_top1:.1%}), max logit difference {found.max_difference:.3g}; it was not published"
        )
