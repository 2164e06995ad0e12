"""A base model small enough to merge, convert and quantise in seconds, and adapters on it."""

from __future__ import annotations

import pydoc
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from agentforge.data.chat_template import install_template
from agentforge.data.tokenizer import train_tokenizer
from tests.export.export_models import MakeBase


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A 600-token BPE of our own, with the chat template."""
    texts = [pydoc.__doc__ or "", *(str(member.__doc__) for member in vars(str).values())]
    trained = train_tokenizer(texts, 600)
    install_template(trained)
    return trained


@pytest.fixture(scope="session")
def make_base(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> MakeBase:
    """Return a function that saves a random two-layer Qwen3 with its tokenizer."""

    def make(tied: bool = False, seed: int = 0, max_shard_size: str = "1GB", **changes: Any) -> Path:
        settings = {
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 512,
            "initializer_range": 0.2,  # logits of a few units: a wrong merge shows
            "tie_word_embeddings": tied,
            "eos_token_id": tokenizer.eos_token_id,
        }
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(Qwen3Config(**{**settings, **changes}))
        directory = tmp_path_factory.mktemp("base")
        model.save_pretrained(directory, max_shard_size=max_shard_size)
        tokenizer.save_pretrained(directory)
        return directory

    return make


@pytest.fixture(scope="session")
def base(make_base: MakeBase) -> Path:
    """An untied base in several shards."""
    return make_base(max_shard_size="200KB")
