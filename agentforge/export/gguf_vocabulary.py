"""Is the vocabulary inside a GGUF the checkpoint's? Every token, its type, the merges, and the tokens with a role."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from agentforge.errors import CheckRefused
from agentforge.export.gguf_pieces import BYTE, CONTROL, NORMAL, UNUSED, USER_DEFINED, Pieces, check_scores

# llama.cpp also ends at these, whatever the file says (llama_vocab::impl::load).
ENDS_BY_NAME = {
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>"),
    *(
        "<|endoftext|>",
        "</s>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<|end_of_text|>",
        "<eos>",
        "<turn|>",
    ),
    *(
        "<end_of_utterance>",
        "<|tool_response>",
        "<｜end▁of▁sentence｜>",
        "[e~[",
        "<|fim_pad|>",
        "<fim-pad>",
        "<fim_pad>",
    ),
    *("<PAD>", "[PAD]", "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>"),
}
ROLES = {"bos": "bos", "eos": "eos", "padding": "pad", "unknown": "unk", "mask": "mask"}  # GGUF's and tokenizers' names
SPACE = "\u2581"


def check_vocabulary(fields: Mapping[str, Any], tokenizer: Any, pieces: Pieces | None = None) -> None:
    """Refuse a GGUF whose vocabulary differs from the checkpoint's in any entry.

    Args:
        fields: the file's metadata.
        tokenizer: the checkpoint's.
        pieces: of its ``tokenizer.model``, if it has one.

    Raises:
        CheckRefused: with the first entry that differs.
    """
    tokens, types = fields.get("tokenizer.ggml.tokens") or [], fields.get("tokenizer.ggml.token_type") or []
    vocabulary = {number: token for token, number in tokenizer.get_vocab().items()}
    if missing := [number for number in vocabulary if number >= min(len(tokens), len(types))]:
        raise _refused(f"has no token {min(missing)}, but the checkpoint's tokenizer has one")
    added, model = tokenizer.added_tokens_decoder, fields.get("tokenizer.ggml.model", "")
    known = pieces.types if pieces is not None and model == "llama" else ()
    for number, (found, found_type) in enumerate(zip(tokens, types, strict=True)):
        expected, kinds = _expected(number, vocabulary, added, model)
        if number < len(known) and number not in added:
            kinds = [known[number]]
        if found != expected:
            raise _refused(f"calls token {number} {found!r}, but the checkpoint's tokenizer {expected!r}")
        if found_type not in kinds:
            raise _refused(f"gives token {number} ({expected!r}) the type {found_type} instead of {kinds[0]}")
    _check_merges(fields, tokenizer)
    check_scores(fields, tokenizer, pieces)
    for theirs, ours in ROLES.items():
        role, expected = fields.get(f"tokenizer.ggml.{theirs}_token_id"), getattr(tokenizer, f"{ours}_token_id")
        # The converter leaves out roles that llama.cpp has no use for; where a turn ends is none of those.
        optional = role is None and ours != "eos"
        if expected is not None and role != expected and not optional:
            raise _refused(f"has {role} as {theirs} token, but the checkpoint's tokenizer {expected}")


def tokens_added(tokenizer: Any) -> dict[str, bool]:
    """Return whether a tokenizer puts its ``bos`` token before a text, and its ``eos`` token behind it."""
    bare, whole = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    longer = len(whole) > len(bare)
    return {
        "bos": longer and whole[0] == tokenizer.bos_token_id,
        "eos": longer and whole[-1] == tokenizer.eos_token_id,
    }


def described_for_sentencepiece(tokenizer: Any) -> dict[str, Any]:
    """Return what the converter must find in tokenizer_config.json beside a ``tokenizer.model``.

    It takes the tokens of that file and no others, and llama.cpp begins every text of such a vocabulary with bos if the
    GGUF does not say; transformers 5 has written neither.
    """
    added = {
        str(number): {"content": str(token), "special": token.special}
        for number, token in tokenizer.added_tokens_decoder.items()
    }
    return {"added_tokens_decoder": added} | {f"add_{key}_token": adds for key, adds in tokens_added(tokenizer).items()}


def check_behaviour(answers: Mapping[str, Any], tokens: Sequence[str], tokenizer: Any, stops: Sequence[int]) -> None:
    """Refuse a GGUF with which llama.cpp begins, ends or stops texts otherwise than the checkpoint's tokenizer.

    Args:
        answers: what llama.cpp says of the loaded file: ``eog``, ``add_bos``, ``add_eos``.
        tokens: the file's.
        tokenizer: the checkpoint's.
        stops: tokens at which its generation must end.

    Raises:
        CheckRefused: with the first difference.
    """
    for role, adds in tokens_added(tokenizer).items():
        if answers[f"add_{role}"] != adds:
            says = "does not add" if adds else "adds"
            raise _refused(f"{says} the {role} token to texts, unlike the checkpoint's tokenizer")
    ends, added = set(answers["eog"]), tokenizer.added_tokens_decoder
    if lacking := sorted(set(stops) - ends):
        raise _refused(f"does not stop at token {lacking[0]} ({tokens[lacking[0]]!r}), but the checkpoint does")
    for number in sorted(ends - set(stops)):
        if number not in added or tokens[number] not in ENDS_BY_NAME:
            raise _refused(f"stops at token {number} ({tokens[number]!r}), but the checkpoint does not")


def _expected(
    number: int, vocabulary: Mapping[int, str], added: Mapping[int, Any], model: str
) -> tuple[str, list[int]]:
    """Return what a token must be called, and the types that it may have."""
    if number not in vocabulary:
        return f"[PAD{number}]", [UNUSED]
    token = vocabulary[number]
    if number in added:
        if added[number].special:
            return token, [CONTROL]
        # some converters make control tokens of those that only look like it
        kinds = [USER_DEFINED, CONTROL] if _looks_special(token) else [USER_DEFINED]
        return token.replace(SPACE, " "), kinds
    is_byte = model == "llama" and len(token) == 6 and token.startswith("<0x") and token.endswith(">")
    return token, [BYTE if is_byte else NORMAL]


def _looks_special(token: str) -> bool:
    """Tell whether an added token has the form of a control token."""
    named = token in ("<pad>", "<mask>", "<2mass>", "[@BOS@]") or (token.startswith("<unused") and token.endswith(">"))
    return named or any(token.startswith(f"<{bar}") and token.endswith(f"{bar}>") for bar in "|｜")


def _check_merges(fields: Mapping[str, Any], tokenizer: Any) -> None:
    if (found := fields.get("tokenizer.ggml.merges")) is None:
        return  # a SentencePiece vocabulary, which has scores instead
    pairs = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    for number, (left, right) in enumerate(zip(found, pairs, strict=False)):
        # a space within a part is written as the letter that stands for it in byte-level BPE
        expected = right if isinstance(right, str) else " ".join(part.replace(" ", "\u0120") for part in right)
        if left != expected:
            raise _refused(f"has {left!r} as merge {number}, but the checkpoint's tokenizer {expected!r}")
    if len(found) != len(pairs):
        raise _refused(f"has {len(found)} merges, but the checkpoint's tokenizer {len(pairs)}")


def _refused(what: str) -> CheckRefused:
    return CheckRefused(f"the GGUF {what}; it was not published")
