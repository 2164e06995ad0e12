"""A small random Adamba and what the tests of its decoding measure it by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from agentforge.systems.adamba.exits.exits import Exit, Exits
from agentforge.systems.adamba.modeling.configuration import AdambaConfig
from agentforge.systems.adamba.modeling.embedding_and_head import head
from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM

VOCABULARY, PADDING = 61, 0


def random_model(seed: int = 0, layers: int = 4, **fields: Any) -> AdambaForCausalLM:
    """A model whose logits differ clearly from layer to layer, and which nothing has trained."""
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "mamba_d_ssm": 64,
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_n_groups": 1,
        "mamba_d_state": 8,
        "mamba_chunk_size": 16,
        "tie_word_embeddings": False,
        "pad_token_id": PADDING,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # of what is not drawn below: convolutions and the scan's rates
        model = AdambaForCausalLM(AdambaConfig(**(sizes | fields)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
            elif "layernorm" in name:
                parameter.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
    return model.eval()


def give_exits(model: AdambaForCausalLM, *layers: int, confidence: str = "max_probability") -> AdambaForCausalLM:
    """Exits whose threshold the test gives."""
    exit = Exit(0.5, 1.0, 0.9, 10, confidence=confidence)  # type: ignore[arg-type]
    model.exits = Exits(dict.fromkeys(layers, exit))
    return model


def prompts(rows: int, length: int = 9, padding: int = 0, seed: int = 1) -> dict[str, Tensor]:
    """Random prompts; the first has padding in front."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCABULARY, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, :padding] = 0
    ids[0, :padding] = PADDING
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def heads_of_layers(model: Any, ids: Tensor, mask: Tensor) -> list[Tensor]:
    """The logits `(B, T, V)` after each layer, from one forward without a cache; the last is full depth's."""
    states: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda module, given, output: states.append(output[0]))
        for layer in model.model.layers
    ]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    full = model(ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    heads = [head(model, model.model.final_layernorm(state)) for state in states]
    assert torch.equal(heads[-1], full)
    return heads


@contextmanager
def counted_layers(model: Any) -> Iterator[Counter[int]]:
    """How often each layer is called meanwhile."""
    calls: Counter[int] = Counter()
    hooks = [
        layer.register_forward_hook(lambda module, given, output, index=index: calls.update([index]))
        for index, layer in enumerate(model.model.layers)
    ]
    yield calls
    for hook in hooks:
        hook.remove()
