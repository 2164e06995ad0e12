"""UTF-8 bytes as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AddedToken, PreTrainedTokenizer

from agentforge.systems.agiformer.checkpoint_types import BYTES, SPECIAL


class AgiformerTokenizer(PreTrainedTokenizer):
    """A token is a byte; three special tokens stand behind the 256. It has no tokenizer.json: the class says all.

    A text that is not valid UTF-8, as a model may write it, is decoded with U+FFFD where it is broken.
    """

    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012  as in transformers
    padding_side = "left"

    def __init__(self, **kwargs: Any) -> None:
        for name, token in zip(("pad_token", "bos_token", "eos_token"), SPECIAL, strict=True):
            kwargs.setdefault(name, token)
        # Otherwise transformers would number them in an order of its own.
        special = {BYTES + place: AddedToken(token, special=True) for place, token in enumerate(SPECIAL)}
        kwargs.setdefault("added_tokens_decoder", special)
        super().__init__(**kwargs)

    @property
    def vocab_size(self) -> int:
        return BYTES

    def get_vocab(self) -> dict[str, int]:
        return {chr(byte): byte for byte in range(BYTES)} | self.added_tokens_encoder

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return the tokens behind the begin token, so that the first byte is predicted too."""
        return [self.bos_token_id, *token_ids_0, *(token_ids_1 or [])]

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        # surrogateescape: bytes that could not be decoded come back as they were
        return [chr(byte) for byte in text.encode("utf-8", errors="surrogateescape")]

    def _convert_token_to_id(self, token: str) -> int:
        return ord(token)

    def _convert_id_to_token(self, index: int) -> str:
        return chr(index)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        # a special token is longer than one character, and stands for itself
        written = (bytes([ord(token)]) if len(token) == 1 else token.encode() for token in tokens)
        return b"".join(written).decode("utf-8", errors="replace")

    def save_vocabulary(self, save_directory: str | Path, filename_prefix: str | None = None) -> tuple[str, ...]:
        return ()

    def count_bytes(self, tokens: Sequence[int]) -> int:
        """Return how many bytes of text the tokens stand for."""
        return sum(token < BYTES for token in tokens)
