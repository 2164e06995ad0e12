"""One set of weights at any width: the narrow models that training runs beside the full one.

A narrow model is a skeleton without weights of its own. Before each use it is given parts of the full model's
parameters, mostly views of them, so gradients reach the full model and nothing is stored twice.

Not `torch.func.functional_call`: it takes the weights back when the forward pass returns, and activation checkpointing,
which runs a layer again during the backward pass, would find none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise, product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.initialization import no_init_weights

from agentforge.systems.adamba.modeling.embedding_and_head import head
from agentforge.systems.adamba.modeling.shape import AdambaShape, Index, index_of, resized

Mix = Sequence[tuple[Fraction, Fraction]]
"""For each layer the widths of its MLP and of its mixers; the residual stream has full width."""

Runs = tuple[tuple[int, int], ...]
"""Where the parts lie that are joined: start and length of each."""


class _Joined(torch.autograd.Function):
    """Several stretches of one dimension; the gradient is written into one tensor, not into one for each stretch."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, dimension: int, runs: Runs) -> Tensor:
        ctx.shape, ctx.dimension, ctx.runs = tensor.shape, dimension, runs
        return torch.cat([tensor.narrow(dimension, start, length) for start, length in runs], dimension)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        # Autograd would pad each stretch to full size and add them up, writing the whole tensor several times.
        whole = gradient.new_zeros(ctx.shape)
        offset = 0
        for start, length in ctx.runs:
            part = gradient.narrow(ctx.dimension, offset, length)
            whole.narrow(ctx.dimension, start, length).copy_(part)
            offset += length
        return whole, None, None


def runs_of(positions: slice | Tensor, size: int) -> Runs:
    """Return the stretches that positions of one dimension of this size consist of."""
    if isinstance(positions, slice):
        return ((0, size if positions.stop is None else positions.stop),)
    breaks = [0, *(torch.nonzero(positions.diff() != 1).flatten() + 1).tolist(), len(positions)]
    return tuple((int(positions[a]), b - a) for a, b in pairwise(breaks))


def blocks(tensor: Tensor, places: tuple[Runs, ...]) -> list[Tensor]:
    """Return views of a tensor that together are the part at ``places``; they can be written to."""
    found = []
    for corner in product(*places):
        view = tensor
        for dimension, (start, length) in enumerate(corner):
            view = view.narrow(dimension, start, length)
        found.append(view)
    return found


def _part(tensor: Tensor, places: tuple[Runs, ...]) -> Tensor:
    for dimension, runs in enumerate(places):
        if len(runs) > 1:
            tensor = _Joined.apply(tensor, dimension, runs)
        elif runs[0] != (0, tensor.shape[dimension]):
            tensor = tensor.narrow(dimension, *runs[0])
    return tensor


class _Slot(NamedTuple):
    """One tensor of a skeleton: the module it belongs to, and where it lies in the full model's."""

    owner: nn.Module
    leaf: str
    name: str
    places: tuple[Runs, ...]


class _Skeleton:
    """A model of another shape whose parameters and buffers are plain attributes, to be set before each use."""

    def __init__(self, full: Any, shape: AdambaShape) -> None:
        # On the meta device and without weights: a skeleton costs only its modules.
        small = resized(full.config, shape)
        with no_init_weights(), torch.device("meta"):
            self.model = type(full)._from_config(small)
        whole = _tensors(full)
        self.slots: dict[str, list[_Slot]] = {}
        for name in _tensors(self.model):
            path, _, leaf = name.rpartition(".")
            owner = self.model.get_submodule(path)
            places = tuple(map(runs_of, _index(name, small, full.config, whole[name].ndim), whole[name].shape))
            self.slots.setdefault(_layer(name), []).append(_Slot(owner, leaf, name, places))
        for slot in (slot for group in self.slots.values() for slot in group):
            slot.owner._parameters.pop(slot.leaf, None)
            slot.owner._buffers.pop(slot.leaf, None)

    def fill(self, group: str, whole: dict[str, Tensor]) -> None:
        # These are views of the live parameters: gradients flow straight into them, and the next fill sees the
        # optimiser's step.
        for slot in self.slots[group]:
            # past nn.Module's __setattr__, which would register a parameter that is taken whole
            slot.owner.__dict__[slot.leaf] = _part(whole[slot.name], slot.places)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters(remove_duplicate=False))  # tied ones under both names
    return {k: v for k, v in (parameters | dict(model.named_buffers())).items() if k.startswith(("model.", "lm_head."))}


def _index(name: str, small: Any, large: Any, dimensions: int) -> Index:
    if name.endswith("mamba.mup_vector"):  # (1, 1, rows of in_proj)
        rows = index_of("mamba.in_proj.weight", small, large)[0]
        return slice(None), slice(None), rows
    if name.endswith("inv_freq"):  # heads are of one size in every width
        return (slice(None),) * dimensions
    return index_of(name, small, large)


def _layer(name: str) -> str:
    return name.split(".")[2] if name.startswith("model.layers.") else ""


class ElasticModel(nn.Module):
    """The full model and every narrower one inside it.

    Attributes:
        full: an Adamba or FalconH1 with its head; the only one that has parameters.
    """

    def __init__(self, full: Any) -> None:
        super().__init__()
        self.full = full
        if getattr(full.config, "head_dim", None) is None:  # FalconH1 would make it smaller where there are more heads
            full.config.head_dim = full.config.hidden_size // full.config.num_attention_heads
        self._skeletons: dict[AdambaShape, _Skeleton] = {}
        self._outer: _Skeleton | None = None

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, widths: Sequence[Fraction | Mix] = (Fraction(1),)
    ) -> list[Tensor]:
        """Return the logits `(B, T, V)` at each width."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
        logits = []
        for width in widths:
            model = self.at(width)
            logits.append(head(model, model.model(**inputs).last_hidden_state))
        return logits

    def at(self, width: Fraction | Mix) -> Any:
        """Return the model at a width, given the weights as they are now: it holds for one forward and backward pass.

        Args:
            width: a share of the full width, or for each layer the shares of its MLP and of its mixers.

        Raises:
            UserError: sizes at this width would be no whole numbers.
        """
        if width == 1:
            return self.full
        shape, whole = AdambaShape.of(self.full.config), _tensors(self.full)
        if isinstance(width, Fraction):
            narrow = self._skeleton(shape.scaled(width))
            for group in narrow.slots:
                narrow.fill(group, whole)
            return self._as_the_full_one(narrow.model)
        # The outer skeleton has embedding, final norm and head at full width. Each layer comes from the skeleton of
        # its widths.
        if self._outer is None:
            self._outer = _Skeleton(self.full, shape)
        self._outer.fill("", whole)
        layers = []
        for index, (mlp, mixers) in enumerate(width):
            narrow = self._skeleton(mixed_shape(shape, mlp, mixers))
            narrow.fill(str(index), whole)
            layers.append(narrow.model.model.layers[index])
        self._outer.model.model.layers = nn.ModuleList(layers)
        return self._as_the_full_one(self._outer.model)

    def _skeleton(self, shape: AdambaShape) -> _Skeleton:
        if shape not in self._skeletons:
            self._skeletons[shape] = _Skeleton(self.full, shape)
        return self._skeletons[shape]

    def _as_the_full_one(self, narrow: Any) -> Any:
        narrow.train(self.full.training)
        for layer, original in zip(narrow.model.layers, self.full.model.layers, strict=True):
            layer.gradient_checkpointing = original.gradient_checkpointing
            if original.gradient_checkpointing:
                layer._gradient_checkpointing_func = original._gradient_checkpointing_func
        return narrow


def mixed_shape(shape: AdambaShape, mlp: Fraction, mixers: Fraction) -> AdambaShape:
    """Return a shape with the same residual stream, its MLP and its mixers at a share of their widths."""
    units, heads = shape.scaled(mlp), shape.scaled(mixers)
    return replace(heads, hidden_size=shape.hidden_size, intermediate_size=units.intermediate_size)
