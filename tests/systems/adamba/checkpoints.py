"""Tiny checkpoints for the tests of surgery, with weights large enough that every part of the model is heard."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import FalconH1Config, FalconH1ForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from agentforge.systems.adamba.exits.exits import ExitGate
from agentforge.systems.adamba.modeling.shape import AdambaShape, resized

VOCABULARY = 96
BASE = AdambaShape(64, 4, 2, 96, 4, 2)
HEAD_DIM = 16
# The switches that a nanochat needs, as an Adamba has them.
NANOCHAT: dict[str, Any] = {
    "norm_weights": False,
    "qk_norm": True,
    "embedding_norm": True,
    "logit_softcap": 15.0,
    "mlp": "relu2",
    "rotary_flipped": True,
}


def loud(model: PreTrainedModel, seed: int = 0) -> Any:
    """Draw weights that make logits of a few units; norms in 0.5..1.5."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith(("A_log", "dt_bias")):
            torch.nn.init.uniform_(parameter, -2, 1)
        elif parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        else:
            torch.nn.init.normal_(parameter, 0, 0.1)
    return model.eval()


def save(model: PreTrainedModel, directory: Path) -> Path:
    """Write a checkpoint and return its directory."""
    model.save_pretrained(directory)
    return directory


def llama(directory: Path, *, tied: bool = False, **fields: Any) -> Path:
    """Write a Llama."""
    settings = {
        **{"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": tied},
    }
    return save(loud(LlamaForCausalLM(LlamaConfig(**(settings | fields)))), directory)


def adamba(directory: Path, shape: AdambaShape = BASE, *, tied: bool = False, **fields: Any) -> Path:
    """Write a FalconH1 whose Mamba is not silent."""
    settings = {
        **{"vocab_size": VOCABULARY, "head_dim": HEAD_DIM, "mamba_d_head": 8, "mamba_d_state": 4},
        **{"mamba_d_ssm": 8 * shape.mamba_n_heads, "mamba_chunk_size": 16, "tie_word_embeddings": tied},
        "pad_token_id": None,
    }
    model = loud(FalconH1ForCausalLM(resized(FalconH1Config(**asdict(shape), **(settings | fields)), shape)))
    for layer in fields.get("dropped_attention", []):
        torch.nn.init.zeros_(model.model.layers[layer].self_attn.o_proj.weight)
    return save(model, directory)


def some_gate(width: int, seed: int = 0) -> ExitGate:
    """Return an exit gate that reads all that it can."""
    gate, generator = ExitGate(width), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.normal_(0, 0.05, generator=generator)
    return gate
