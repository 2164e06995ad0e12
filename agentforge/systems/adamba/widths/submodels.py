"""Narrower models cut out of one in memory: real matrices of their own size, so that they compute less."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from transformers.initialization import no_init_weights

from agentforge.errors import UserError
from agentforge.systems.adamba.modeling.shape import AdambaShape, index_of, resized, take
from agentforge.systems.adamba.widths.elastic import mixed_shape

Model = Any
"""A `FalconH1ForCausalLM` or a subclass of it."""

Widths = str | int | float | Fraction

Mix = Sequence[tuple[Widths, Widths]]
"""For each layer the widths of its MLP and of its mixers."""

_made: weakref.WeakKeyDictionary[Model, tuple[object, dict[tuple[AdambaShape, ...], Model]]] = (
    weakref.WeakKeyDictionary()
)


def parse_width(width: Widths) -> Fraction:
    """Return a width as a share of the whole.

    Raises:
        UserError: it is no number in (0, 1].
    """
    try:
        share = Fraction(width).limit_denominator(1 << 16)
    except (ValueError, TypeError, ZeroDivisionError):
        share = Fraction(0)
    if not 0 < share <= 1:
        raise UserError(f"width {width!r} is not valid; give a share of the whole model, such as 1/2, and at most 1")
    return share


def cut(model: Model, shape: AdambaShape) -> Model:
    """Return the model of a smaller shape that lies in the first rows and columns of this one.

    Its tensors are copies, contiguous, except where a part is contiguous as it lies; do not train it.

    Args:
        model: an Adamba or FalconH1 with a language-modelling head.
        shape: fits in the model's own.

    Raises:
        UserError: the model has tensors that no slice is known of (an adapter).
    """
    # Copies rather than views: decoding runs this model thousands of times, and contiguous matrices are read faster.
    config = resized(model.config, shape)
    with no_init_weights(), torch.device(model.device):
        small = type(model)._from_config(config, dtype=model.dtype)
    whole = model.state_dict()
    try:
        state = {name: take(whole[name], index_of(name, config, model.config)) for name in small.state_dict()}
    except KeyError as missing:
        raise UserError(f"this model cannot be sliced: it has no tensor {missing}; merge its adapter first") from None
    small.load_state_dict({name: part.contiguous() for name, part in state.items()}, assign=True)
    small.tie_weights()  # a FalconH1 does not do so itself
    small.requires_grad_(False)
    small.generation_config = model.generation_config
    return small.train(model.training)


def cut_mixed(model: Model, shapes: Sequence[AdambaShape]) -> Model:
    """Return the model whose layers have one shape each; `hidden_size` and depth are the whole model's in all of them.

    There is no config for it, so it is for use in memory and not for saving.
    """
    made = {shape: cut(model, shape) for shape in set(shapes)}
    mixed = made[shapes[0]]
    mixed.model.layers = torch.nn.ModuleList(made[shape].model.layers[index] for index, shape in enumerate(shapes))
    return mixed


def submodel(model: Model, width: Widths | Mix) -> Model:
    """Return the model at a share of its width; the same one again as long as the weights have not changed.

    A change is seen by the version that PyTorch counts at every in-place change of a tensor (an optimiser's step,
    `load_state_dict`); one through `.data` is not counted.

    Args:
        model: an Adamba or FalconH1 with its head.
        width: a share of all widths, or for each layer the shares of its MLP and of its mixers.

    Raises:
        UserError: the share is no width of this model, or not every layer is given its own.
    """
    whole = AdambaShape.of(model.config)
    if isinstance(width, Sequence) and not isinstance(width, str):
        shapes = mixed_shapes(whole, width)
    elif (share := parse_width(width)) != 1:
        shapes = (whole.scaled(share),)
    else:
        return model
    # A cut goes stale with the next optimiser step. Version counters notice that for free; comparing weights would
    # not.
    state = tuple((parameter.data_ptr(), parameter._version) for parameter in model.parameters())
    known, made = _made.get(model, (None, {}))
    if known != state:
        made = {}
        _made[model] = (state, made)
    if shapes not in made:
        made[shapes] = cut(model, shapes[0]) if len(shapes) == 1 else cut_mixed(model, shapes)
    return made[shapes].train(model.training)


def mixed_shapes(whole: AdambaShape, width: Mix) -> tuple[AdambaShape, ...]:
    """Return the shape of each layer.

    Raises:
        UserError: there are not as many as layers, or one is not a pair of widths.
    """
    if len(width) != whole.num_hidden_layers or any(isinstance(pair, str) or len(pair) != 2 for pair in width):
        raise UserError(
            f"width: a mix must be a list of {whole.num_hidden_layers} pairs: for each layer, the width of its MLP and "
            "that of its mixers"
        )
    return tuple(mixed_shape(whole, parse_width(mlp), parse_width(mixers)) for mlp, mixers in width)
