"""The model and its tokenizer, known to transformers' Auto classes once this module is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizer,
)
from transformers.modeling_outputs import CausalLMOutput

SPECIAL = ("<pad>", "<end>")


@strict
class ToyConfig(PretrainedConfig):
    model_type = "toy_gru"

    hidden_size: int = 32
    vocab_size: int = 256 + len(SPECIAL)


class ToyForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = ToyConfig

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.gru = nn.GRU(config.hidden_size, config.hidden_size, batch_first=True)
        self.head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **_: Any) -> CausalLMOutput:
        """Return logits `(B, T, V)`, and with labels the mean loss."""
        logits = self.head(self.gru(self.embedding(input_ids))[0])
        loss = None if labels is None else self.loss_function(logits, labels, vocab_size=self.config.vocab_size)
        return CausalLMOutput(loss=loss, logits=logits)


class ByteTokenizer(PreTrainedTokenizer):
    """UTF-8 bytes. It has no tokenizer.json: its class says all."""

    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012  as in transformers

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("pad_token", SPECIAL[0])
        kwargs.setdefault("eos_token", SPECIAL[1])
        super().__init__(**kwargs)

    @property
    def vocab_size(self) -> int:
        return 256

    def get_vocab(self) -> dict[str, int]:
        return {chr(byte): byte for byte in range(256)} | self.added_tokens_encoder

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return [chr(byte) for byte in text.encode("utf-8")]

    def _convert_token_to_id(self, token: str) -> int:
        return ord(token)

    def _convert_id_to_token(self, index: int) -> str:
        return chr(index)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return bytes(ord(token) for token in tokens).decode("utf-8", errors="replace")

    def save_vocabulary(self, save_directory: str | Path, filename_prefix: str | None = None) -> tuple[str, ...]:
        return ()

    def count_bytes(self, tokens: list[int]) -> int:
        return sum(token < 256 for token in tokens)


AutoConfig.register(ToyConfig.model_type, ToyConfig)
AutoModelForCausalLM.register(ToyConfig, ToyForCausalLM)
AutoTokenizer.register(ToyConfig, slow_tokenizer_class=ByteTokenizer)
assert torch.get_default_dtype() == torch.float32
