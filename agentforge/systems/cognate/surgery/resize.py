"""A Cognate whose memories are larger or smaller than another's, in memory: nothing is written here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from agentforge.systems.cognate.modeling.configuration import CognateConfig
from agentforge.systems.cognate.modeling.modeling import CognateForCausalLM

OUTPUT = "o_proj.weight"
"""What a memory's heads write to, side by side in its columns."""
GATES = ".gates."
"""Decay, write strength and a third gate of every head: first that of all heads, then the next."""


def with_more_heads(trunk: CognateForCausalLM, heads: int, seed: int) -> CognateForCausalLM:
    """Return a model whose memories have more heads, and that computes what the trunk computes.

    The new heads read, remember and forget from the start, as a fresh memory would. Only what they write is zero. So
    the output matrix gets a gradient at the first step, and through it all of the head; a head of nothing but zeros
    would never learn.

    Args:
        trunk: is not changed.
        heads: at least the trunk's.
        seed: of the new heads' first values.
    """
    config = changed(trunk, memory_heads=heads)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        grown: Any = CognateForCausalLM(config)
    with torch.no_grad():
        for name, tensor in grown.state_dict().items():
            if is_output_of_memory(name):
                tensor.zero_()
            old, new = by_head(name, trunk), by_head(name, grown)
            if is_of_heads(name):
                new = new.narrow(head_dim(name), 0, trunk.config.memory_heads)
            new.copy_(old)
    made: CognateForCausalLM = grown.to(trunk.dtype).eval()
    return made


def with_heads(trunk: CognateForCausalLM, kept: Mapping[int, Sequence[int]]) -> CognateForCausalLM:
    """Return a model with some of the memories' heads.

    Args:
        trunk: is not changed.
        kept: by layer the numbers of the heads that stay; as many in each layer.
    """
    (count,) = {len(heads) for heads in kept.values()}
    small: Any = CognateForCausalLM(changed(trunk, memory_heads=count))
    with torch.no_grad():
        for name in small.state_dict():
            old, new = by_head(name, trunk), by_head(name, small)
            if is_of_heads(name):
                heads = torch.tensor(kept[layer_of(name, trunk.config)], device=old.device)
                old = old.index_select(head_dim(name), heads)
            new.copy_(old)
    made: CognateForCausalLM = small.to(trunk.dtype).eval()
    return made


def with_memories(trunk: CognateForCausalLM, layers: Sequence[int], scales: Mapping[int, Tensor]) -> CognateForCausalLM:
    """Return a model with memories only in some layers.

    Where a memory goes, its gate goes with it, and with the gate the norm of what attention writes. The attention's
    output matrix takes over the size that the gate gave it on average (`scales`); without that a layer would suddenly
    write something of another size.

    Args:
        trunk: is not changed.
        layers: that keep their memory.
        scales: by layer without one, a factor `(hidden_size,)` for each channel that attention writes.
    """
    small: Any = CognateForCausalLM(changed(trunk, memory_layers=sorted(layers)))
    small.load_state_dict({name: tensor for name, tensor in trunk.state_dict().items() if name in small.state_dict()})
    with torch.no_grad():
        for layer, scale in scales.items():
            layer_at(small, layer).self_attn.o_proj.weight.mul_(scale[:, None])
    made: CognateForCausalLM = small.to(trunk.dtype).eval()
    return made


def changed(trunk: CognateForCausalLM, **fields: Any) -> CognateConfig:
    """Return the trunk's config with other fields."""
    return CognateConfig(**{**trunk.config.to_dict(), **fields})


def memories_of(config: CognateConfig) -> list[int]:
    """Return the layers with a memory."""
    return [layer for layer in range(config.num_hidden_layers) if config.has_memory(layer)]


def layer_at(model: CognateForCausalLM, layer: int) -> Any:
    """Return a layer by its number through prelude and core."""
    prelude = len(model.model.prelude)
    return model.model.prelude[layer] if layer < prelude else model.model.core[layer - prelude]


def layer_of(name: str, config: CognateConfig) -> int:
    """Return the layer, through prelude and core, that a tensor of this name is in."""
    _, kind, number, *_ = name.split(".")
    return int(number) + (config.num_prelude_layers if kind == "core" else 0)


def is_of_heads(name: str) -> bool:
    """Tell whether a tensor is made of a memory's heads: all of a memory are."""
    return ".memory." in name


def is_output_of_memory(name: str) -> bool:
    """Tell the output matrix of a memory from that of an attention."""
    return is_of_heads(name) and name.endswith(OUTPUT)


def head_dim(name: str) -> int:
    """Return the dimension of `by_head`'s tensor that counts the heads."""
    return 1 if name.endswith(OUTPUT) or GATES in name else 0


def by_head(name: str, model: CognateForCausalLM) -> Tensor:
    """Return a tensor of the model, seen so that the heads of a memory have a dimension of their own.

    Heads lie one behind the other: in the columns of the output matrix, in the rows of all others; and in the gates'
    once for each of the three gates.
    """
    tensor = model.state_dict()[name]
    heads = model.config.memory_heads
    if not is_of_heads(name):
        return tensor
    if GATES in name:
        return tensor.view(-1, heads, *tensor.shape[1:])
    if name.endswith(OUTPUT):
        return tensor.view(tensor.shape[0], heads, -1)
    return tensor.view(heads, -1, *tensor.shape[1:])
