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
    old = trunk.state_dict()
    with torch.no_grad():
        for name, tensor in grown.state_dict().items():
            if name not in old:
                continue
            if is_output_of_memory(name):
                tensor.zero_()
            # Heads lie one behind the other in every tensor of a memory, so the old ones are its first corner.
            tensor[tuple(slice(0, size) for size in old[name].shape)].copy_(old[name])
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
    old = trunk.state_dict()
    with torch.no_grad():
        for name, tensor in small.state_dict().items():
            source = old[name]
            for dim in [d for d in range(tensor.dim()) if tensor.shape[d] != source.shape[d]]:
                source = _heads(source, dim, trunk.config.memory_heads, kept[layer_of(name, trunk.config)])
            tensor.copy_(source)
    made: CognateForCausalLM = small.to(trunk.dtype).eval()
    return made


def _heads(tensor: Tensor, dim: int, heads: int, kept: Sequence[int]) -> Tensor:
    size = tensor.shape[dim] // heads
    places = torch.cat([torch.arange(head * size, (head + 1) * size) for head in kept])
    return tensor.index_select(dim, places.to(tensor.device))


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


def is_output_of_memory(name: str) -> bool:
    """Tell the output matrix of a memory from that of an attention."""
    return ".memory." in name and name.endswith(OUTPUT)
