"""Narrower models cut out of one in memory: real matrices of their own size, so that they compute less."""

from __future__ import annotations

import weakref
from fractions import Fraction
from typing import Any

import torch
from transformers.initialization import no_init_weights

from agentforge.errors import UserError
from agentforge.models.adamba.shape import Shape, index_of, resized, take

Model = Any
"""A `FalconH1ForCausalLM` or a subclass of it."""

Widths = str | int | float | Fraction

_made: weakref.WeakKeyDictionary[Model, tuple[object, dict[Shape, Model]]] = weakref.WeakKeyDictionary()


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
        raise UserError(f"width {width!r}: a width is a share of the whole model, such as 1/2; at most 1")
    return share


def cut(model: Model, shape: Shape) -> Model:
    """Return the model of a smaller shape that lies in the first rows and columns of this one.

    Its tensors are copies, contiguous, except where a part is contiguous as it lies; do not train it.

    Args:
        model: an Adamba or FalconH1 with a language-modelling head.
        shape: fits in the model's own.

    Raises:
        UserError: the model has tensors that no slice is known of (an adapter).
    """
    config = resized(model.config, shape)
    with no_init_weights(), torch.device(model.device):
        small = type(model)._from_config(config, dtype=model.dtype)
    whole = model.state_dict()
    try:
        state = {name: take(whole[name], index_of(name, config, model.config)) for name in small.state_dict()}
    except KeyError as missing:
        raise UserError(
            f"no slice of this model can be made: it has no tensor {missing}; merge its adapter first"
        ) from None
    small.load_state_dict({name: part.contiguous() for name, part in state.items()}, assign=True)
    small.tie_weights()
    small.requires_grad_(False)
    small.generation_config = model.generation_config
    return small.train(model.training)


def submodel(model: Model, width: Widths) -> Model:
    """Return the model at a share of its width; the same one again as long as the weights have not changed.

    A change is seen by the version that PyTorch counts at every in-place change of a tensor (an optimiser's step,
    `load_state_dict`); one through `.data` is not counted.

    Raises:
        UserError: the share is no width of this model.
    """
    share = parse_width(width)
    if share == 1:
        return model
    shape = Shape.of(model.config).scaled(share)
    state = tuple((parameter.data_ptr(), parameter._version) for parameter in model.parameters())
    known, made = _made.get(model, (None, {}))
    if known != state:
        made = {}
        _made[model] = (state, made)
    if shape not in made:
        made[shape] = cut(model, shape)
    return made[shape].train(model.training)
