"""The scores of a SentencePiece vocabulary inside a GGUF: by them llama.cpp decides which pieces a text becomes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agentforge.errors import CheckRefused

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # enum llama_token_type
MODEL_FILE = "tokenizer.model"
# What llama.cpp's converter writes for tokens that are added to the vocabulary, and for rows that no token has.
ADDED_SCORE, ROW_SCORE = -1000.0, -10_000.0


@dataclass(frozen=True)
class Pieces:
    """What a ``tokenizer.model`` says of its pieces, by id.

    Attributes:
        texts: how each is written.
        scores: the larger, the earlier it is merged; a log probability in a unigram model.
        types: as a GGUF numbers them.
    """

    texts: Sequence[str]
    scores: Sequence[float]
    types: Sequence[int]


def read_pieces(checkpoint: Path) -> Pieces | None:
    """Return the pieces of a checkpoint's ``tokenizer.model``; None if it has no such file.

    Raises:
        CheckRefused: the file is damaged.
    """
    file = checkpoint / MODEL_FILE
    if not file.is_file():
        return None
    from sentencepiece import SentencePieceProcessor

    try:
        model = SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError):
        raise CheckRefused(f"{file} is damaged: it is no SentencePiece model") from None
    ids = range(model.vocab_size())
    types = [
        UNKNOWN if model.IsUnknown(number)
        else CONTROL if model.IsControl(number)
        else UNUSED if model.IsUnused(number)
        else BYTE if model.IsByte(number)
        else NORMAL
        for number in ids
    ]  # fmt: skip
    return Pieces([model.IdToPiece(number) for number in ids], [model.GetScore(number) for number in ids], types)


def check_scores(fields: Mapping[str, Any], tokenizer: Any, pieces: Pieces | None) -> None:
    """Refuse a GGUF whose SentencePiece scores are not those of the checkpoint.

    Args:
        fields: the file's metadata.
        tokenizer: the checkpoint's.
        pieces: of its ``tokenizer.model``; without that file the converter knows no scores and writes one for all.

    Raises:
        CheckRefused: with the first score that differs, or because ``tokenizer.model`` is of another tokenizer.
    """
    if fields.get("tokenizer.ggml.model") != "llama":
        return
    tokens, scores = fields["tokenizer.ggml.tokens"], fields.get("tokenizer.ggml.scores") or []
    if len(scores) != len(tokens):
        raise CheckRefused(f"the GGUF has {len(scores)} scores for {len(tokens)} tokens; it was not published")
    wanted = np.full(len(tokens), ROW_SCORE if pieces else ADDED_SCORE, np.float32)
    if pieces is not None:
        count = min(len(pieces.scores), len(tokens))
        wanted[:count] = pieces.scores[:count]
        _check_origin(tokenizer, pieces)
    wanted[[number for number in tokenizer.added_tokens_decoder if number < len(tokens)]] = ADDED_SCORE
    wrong = np.flatnonzero(np.asarray(scores, np.float32) != wanted)  # NaN differs from everything
    if wrong.size:
        number = int(wrong[0])
        raise CheckRefused(
            f"the GGUF gives token {number} ({tokens[number]!r}) the score {scores[number]:g} instead of "
            f"{wanted[number]:g}; it was not published"
        )


def _check_origin(tokenizer: Any, pieces: Pieces) -> None:
    """Refuse a ``tokenizer.model`` that is not the tokenizer's: llama.cpp reads the one, transformers the other."""
    scores = {
        text: score
        for text, score, kind in zip(pieces.texts, pieces.scores, pieces.types, strict=True)
        if kind == NORMAL
    }
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if model["type"] == "Unigram":
        others = [text for text, score in model["vocab"] if text in scores and np.float32(score) != scores[text]]
        if others:
            raise _other_model(f"the score of {others[0]!r}")
        return
    merged = ["".join(pair.split(" ", 1) if isinstance(pair, str) else pair) for pair in model.get("merges", [])]
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    ordered = [text for text in merged if text in scores and text not in added]
    for before, after in itertools.pairwise(ordered):
        if scores[before] < scores[after]:
            raise _other_model(f"that {before!r} is merged before {after!r}")


def _other_model(what: str) -> CheckRefused:
    return CheckRefused(
        f"tokenizer.json says otherwise than {MODEL_FILE} ({what}), and a GGUF can only follow the second; copy both "
        "from the same model"
    )
