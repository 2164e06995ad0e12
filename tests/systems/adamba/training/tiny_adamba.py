"""A tiny Adamba, and recipes on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import FalconH1Config, FalconH1ForCausalLM, set_seed

from tests.trainers.tiny import figures

FALCON: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "mamba_d_ssm": 32,
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_d_state": 8,
    "mamba_chunk_size": 16,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
NESTED: dict[str, Any] = {"nested": {"widths": ["1/2", "1/4"], "random": 1, "mix_and_match": True}}
EXITS: dict[str, Any] = {"exits": {"layers": [1, 2], "scale": 0.5, "layer_dropout": 0.2, "gates": True}}


def write_adamba(directory: Path) -> Path:
    """Write a checkpoint as surgery leaves it."""
    set_seed(0)
    FalconH1ForCausalLM(FalconH1Config(**FALCON)).save_pretrained(directory)
    return directory


def weights(directory: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint."""
    return load_file(directory / "model.safetensors")


def logged(directory: Path) -> list[dict[str, Any]]:
    """Return the lines of training, without what depends on the clock."""
    return [line for line in figures(directory) if "loss" in line]
