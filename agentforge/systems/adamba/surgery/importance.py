"""The important channels, heads and units first: what narrow widths keep is the first part of every axis, and in a
model that was trained whole the order of an axis says nothing.

Importance is measured on calibration rows by mean absolute activation, after Minitron (Muralidharan et al. 2024, arXiv
2407.14679, section 2.2): of the norms' outputs for channels, of what reaches the residual stream for heads and units.
The weights are permuted so that the model computes the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from agentforge.errors import UserError
from agentforge.systems.adamba.modeling.shape import axes_of
from agentforge.systems.adamba.surgery.streaming import SHARD_BYTES, main_dtype, open_adamba, write_adamba


@dataclass
class Importance:
    """Scores, higher for what matters more; of layers by their index.

    Attributes:
        channels: `(hidden_size,)`.
        groups: `(num_key_value_heads,)` of each layer: a key-value head with all its query heads.
        units: `(intermediate_size,)` of each layer.
        heads: `(mamba_n_heads,)` of each layer.
    """

    channels: Tensor
    groups: list[Tensor]
    units: list[Tensor]
    heads: list[Tensor]


def measure(model: Any, rows: Sequence[Sequence[int]]) -> Importance:
    """Return the importance of every channel, head and unit of an Adamba on token rows.

    Raises:
        UserError: there are no rows.
    """
    if not rows:
        raise UserError("order: there are no rows to measure importance on; run `agentforge prepare` on this recipe")
    config, layers = model.config, model.model.layers
    depth = config.num_hidden_layers
    found = Importance(
        torch.zeros(config.hidden_size),
        [torch.zeros(config.num_key_value_heads) for _ in range(depth)],
        [torch.zeros(config.intermediate_size) for _ in range(depth)],
        [torch.zeros(config.mamba_n_heads) for _ in range(depth)],
    )
    norms = [norm for layer in layers for norm in (layer.input_layernorm, layer.pre_ff_layernorm)]
    watched: list[tuple[nn.Module, Callable[..., None]]] = [
        (norm, _mean_output(found.channels)) for norm in (*norms, model.model.final_layernorm)
    ]
    for index, layer in enumerate(layers):
        watched += [
            (layer.self_attn.o_proj, _contribution(found.groups[index])),
            (layer.feed_forward.down_proj, _contribution(found.units[index])),
            (layer.mamba.out_proj, _contribution(found.heads[index])),
        ]
    with _hooked(watched), torch.inference_mode():
        for row in rows:
            model(input_ids=torch.tensor([list(row)], device=model.device), use_cache=False)
    return found


@contextmanager
def _hooked(watched: Sequence[tuple[nn.Module, Callable[..., None]]]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module, hook in watched]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _mean_output(scores: Tensor) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        scores.add_(output.float().abs().sum((0, 1)).cpu())

    return hook


def _contribution(scores: Tensor) -> Callable[..., None]:
    """Score the parts of a projection's input by the length of what each alone sends into the residual stream."""

    def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        values, weight = inputs[0].detach().flatten(0, -2).float(), module.weight.detach().float()  # type: ignore[operator]
        # A head with large activations and tiny output weights contributes little, so the product is what counts.
        size = values.shape[-1] // len(scores)
        if size == 1:
            scores.add_((values.abs().sum(0) * weight.norm(dim=0)).cpu())
            return
        for part in range(len(scores)):
            span = slice(part * size, (part + 1) * size)
            scores[part] += (values[:, span] @ weight[:, span].T).norm(dim=-1).sum().cpu()

    return hook


class Order:
    """The permutation of every axis that puts the important first; equal scores keep their order.

    Args:
        importance: the scores.
        config: of the model.
    """

    def __init__(self, importance: Importance, config: Any) -> None:
        self.importance = importance
        self.config = config

    def of(self, axis: str, layer: int) -> Tensor | None:
        """Return the new order of an axis's old positions; None: it stays."""
        config = self.config
        if axis == "all":
            return None
        if axis == "hidden":
            return descending(self.importance.channels)
        if axis == "units":
            return descending(self.importance.units[layer])
        if axis in ("keys", "queries"):
            per_group = config.num_attention_heads // config.num_key_value_heads if axis == "queries" else 1
            return _blocks(descending(self.importance.groups[layer]), per_group * config.head_dim)
        heads = descending(self.importance.heads[layer])
        if axis == "heads":
            return heads
        inner = _blocks(heads, config.mamba_d_head)
        if axis == "inner":
            return inner
        width, states = config.mamba_d_ssm, torch.arange(2 * config.mamba_n_groups * config.mamba_d_state)
        if axis == "conv":
            return torch.cat([inner, width + states])
        return torch.cat([inner, width + inner, 2 * width + states, 2 * width + len(states) + heads])


def descending(scores: Tensor) -> Tensor:
    """Return the positions of the scores, the highest first; equal ones as they are."""
    return torch.argsort(scores, descending=True, stable=True)


def _blocks(order: Tensor, size: int) -> Tensor:
    return (order[:, None] * size + torch.arange(size)).flatten()


def order_checkpoint(source: Path, target: Path, importance: Importance, shard_bytes: int = SHARD_BYTES) -> None:
    """Write the model with its channels, heads and units in the order of their importance.

    Args:
        source: checkpoint of an Adamba.
        target: an existing directory.
        importance: from `measure`.
        shard_bytes: largest shard.

    Raises:
        UserError: the model was expanded, and its old part would no longer be the first; or it has Mamba groups.
        CheckRefused: the source's tensors are not those of its config.
    """
    config, checkpoint = open_adamba(source)
    check_orderable(source, config)
    order = Order(importance, config)

    def tensor(name: str) -> Tensor:
        value = checkpoint.read(name)
        # Whoever writes an axis and whoever reads it are permuted alike, so the permutation cancels in every product.
        words = name.split(".")
        layer = int(words[2]) if words[1] == "layers" else 0
        for dimension, axis in enumerate(axes_of(name)):
            if (positions := order.of(axis, layer)) is not None:
                value = value.index_select(dimension, positions)
        return value

    write_adamba(target, config, main_dtype(checkpoint), tensor, shard_bytes)


def check_orderable(source: Path, config: Any) -> None:
    """Refuse a model whose parts must stay where they are.

    Raises:
        UserError: it was expanded, or its Mamba heads are in groups.
    """
    if getattr(config, "expansions", None):
        raise UserError(
            f"order: {source} was expanded, so its old part must stay first; order the model before expanding it"
        )
    if config.mamba_n_groups != 1:
        raise UserError(f"order: {source} has {config.mamba_n_groups} Mamba groups, so its heads cannot be reordered")
