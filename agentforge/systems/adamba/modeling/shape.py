"""How wide and how deep an Adamba is, and where a smaller one lies inside a larger one.

A smaller model is the first rows and columns of every tensor of a larger one: the first channels of the residual
stream, the first attention heads (whole groups of them), the first MLP units, the first Mamba heads, the first layers.
Slicing, nested training and expansion all follow from this one map.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any

import torch

from agentforge.errors import UserError

Config = Any
"""A `FalconH1Config`; typed so because its optional fields are never None once it is made."""

Index = tuple["slice | torch.Tensor", ...]
"""One entry a dimension: a prefix as a slice, or positions as a tensor."""

EVERYTHING = slice(None)


@dataclass(frozen=True)
class AdambaShape:
    """The sizes that nest, by their names in the config. Sizes of a head and of the state are one for all widths."""

    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    mamba_n_heads: int
    num_hidden_layers: int

    @classmethod
    def of(cls, config: Config) -> AdambaShape:
        return cls(**{field.name: getattr(config, field.name) for field in fields(cls)})

    def fits_in(self, other: AdambaShape) -> bool:
        """Tell whether every size is at most the other's."""
        return all(size <= getattr(other, name) for name, size in asdict(self).items())

    def scaled(self, share: Fraction) -> AdambaShape:
        """Return the shape whose widths are a share of this one's; the depth stays.

        Raises:
            UserError: a size is no whole number then, and which shares would do.
        """
        sizes = asdict(self)
        for name in sizes:
            if name == "num_hidden_layers":
                continue
            size = sizes[name] * share
            if size.denominator != 1 or size < 1:
                common = math.gcd(*(value for key, value in asdict(self).items() if key != "num_hidden_layers"))
                raise UserError(
                    f"width {share}: {name} {sizes[name]} would be {float(size):g}; widths are whole numbers of "
                    f"{common}ths here"
                )
            sizes[name] = int(size)
        return AdambaShape(**sizes)


NORM_MULTIPLIERS = ("attention_in_multiplier", "ssm_in_multiplier", "mlp_multipliers", "lm_head_multiplier")
"""The multipliers of FalconH1 that stand behind a norm."""


def resized(config: Config, shape: AdambaShape) -> Any:
    """Return the config of a model of another shape inside, or around, that of ``config``.

    RMSNorm divides by the root of the mean over all channels. A model that has grown from ``base_hidden_size`` channels
    and whose new channels are still zero would see its old ones grow by ``sqrt(new / base)``. The multipliers that
    FalconH1 has behind each norm take that back, and so does the epsilon; the weights stay as they are, and the old
    model is still in the new one bit for bit. Below the base the multipliers are the base's own. They are computed from
    the base's, which the config keeps: a way there and back would not end on the same floats.

    Raises:
        UserError: the shape does not divide into the groups of heads that ``config`` has.
    """
    # Why a multiplier can undo the norm: if only n_old of n channels are non-zero, the mean of squares shrinks by
    # n_old / n and RMSNorm scales its output up by sqrt(n / n_old). Epsilon is added to that mean, so it must shrink
    # with it. No other part of the model looks at all channels at once.
    check_groups(config, shape)
    changed = copy.deepcopy(config)
    for name, size in asdict(shape).items():
        setattr(changed, name, size)
    changed.mamba_d_ssm = shape.mamba_n_heads * config.mamba_d_head
    changed.base_hidden_size = getattr(config, "base_hidden_size", None) or config.hidden_size
    changed.base_rms_norm_eps = getattr(config, "base_rms_norm_eps", None) or config.rms_norm_eps
    behind_norms = (*NORM_MULTIPLIERS, *(["embedding_multiplier"] if getattr(config, "embedding_norm", False) else []))
    kept = getattr(config, "base_multipliers", None)
    changed.base_multipliers = kept or {name: getattr(config, name) for name in behind_norms}
    share = min(1.0, changed.base_hidden_size / shape.hidden_size)
    changed.rms_norm_eps = changed.base_rms_norm_eps * share
    for name, multiplier in changed.base_multipliers.items():
        factor = math.sqrt(share)
        setattr(
            changed, name, [m * factor for m in multiplier] if isinstance(multiplier, list) else multiplier * factor
        )
    _keep_what_fits(changed, shape)
    return changed


def _keep_what_fits(config: Config, shape: AdambaShape) -> None:
    """Take out of a config the exits and layers that the shape does not have, and the expansions it is not part of."""
    for name, first in (("exit_layers", 1), ("dropped_attention", 0)):
        if layers := getattr(config, name, None):
            setattr(config, name, [layer for layer in layers if first <= layer < shape.num_hidden_layers])
    # A slice that is smaller than an earlier shape no longer contains it, and forgets it.
    whole = [old for old in getattr(config, "expansions", None) or [] if AdambaShape(**old) != shape]
    inside = [old for old in whole if AdambaShape(**old).fits_in(shape)]
    config.expansions, config.expanded_from = inside or None, inside[-1] if inside else None


def check_groups(config: Config, shape: AdambaShape) -> None:
    """Refuse a shape in which a head would read another group's keys, or another group's state input.

    Raises:
        UserError: query heads per key-value head are not those of ``config``, or Mamba heads do not divide.
    """
    per_group = config.num_attention_heads // config.num_key_value_heads
    if shape.num_attention_heads != per_group * shape.num_key_value_heads:
        raise UserError(
            f"num_attention_heads {shape.num_attention_heads} and num_key_value_heads {shape.num_key_value_heads} do "
            f"not fit: each key-value head must serve {per_group} attention heads, as in the other widths"
        )
    if config.mamba_n_groups != 1 and shape.mamba_n_heads != config.mamba_n_heads:
        raise UserError(
            f"mamba_n_heads cannot change from {config.mamba_n_heads} to {shape.mamba_n_heads}: the model has "
            f"{config.mamba_n_groups} Mamba groups, and heads would move from one group to another"
        )


def _in_proj(small: Config, large: Config) -> torch.Tensor:
    """Rows are [gate | x | B | C | dt]; B and C belong to the groups and are shared by all heads."""
    # So a smaller mixer is not a plain prefix: it takes the first rows of gate, x and dt, and all rows of B and C.
    inner, outer = small.mamba_d_ssm, large.mamba_d_ssm
    states = 2 * small.mamba_n_groups * small.mamba_d_state
    parts = [(0, inner), (outer, inner), (2 * outer, states), (2 * outer + states, small.mamba_n_heads)]
    return torch.cat([torch.arange(start, start + size) for start, size in parts])


def _conv(small: Config, large: Config) -> torch.Tensor:
    """Channels are [x | B | C]."""
    states = 2 * small.mamba_n_groups * small.mamba_d_state
    outer = large.mamba_d_ssm
    return torch.cat([torch.arange(small.mamba_d_ssm), torch.arange(outer, outer + states)])


PREFIXES: dict[str, Callable[[Config], int]] = {
    "hidden": lambda config: config.hidden_size,
    "units": lambda config: config.intermediate_size,
    "queries": lambda config: config.num_attention_heads * config.head_dim,
    "keys": lambda config: config.num_key_value_heads * config.head_dim,
    "heads": lambda config: config.mamba_n_heads,
    "inner": lambda config: config.mamba_d_ssm,
}
"""The axes of which a smaller model has the first entries, and how many it has."""

AXES: dict[str, tuple[str, ...]] = {
    "embed_tokens.weight": ("all", "hidden"),
    "lm_head.weight": ("all", "hidden"),
    "input_layernorm.weight": ("hidden",),
    "pre_ff_layernorm.weight": ("hidden",),
    "final_layernorm.weight": ("hidden",),
    "self_attn.q_proj.weight": ("queries", "hidden"),
    "self_attn.k_proj.weight": ("keys", "hidden"),
    "self_attn.v_proj.weight": ("keys", "hidden"),
    "self_attn.o_proj.weight": ("hidden", "queries"),
    "feed_forward.gate_proj.weight": ("units", "hidden"),
    "feed_forward.up_proj.weight": ("units", "hidden"),
    "feed_forward.down_proj.weight": ("hidden", "units"),
    "mamba.in_proj.weight": ("in_proj", "hidden"),
    "mamba.out_proj.weight": ("hidden", "inner"),
    "mamba.conv1d.weight": ("conv", "all", "all"),
    "mamba.conv1d.bias": ("conv",),
    "mamba.dt_bias": ("heads",),
    "mamba.A_log": ("heads",),
    "mamba.D": ("heads",),
}
"""What each tensor's dimensions run over, by the end of its name."""


def axes_of(name: str) -> tuple[str, ...]:
    """Return what the dimensions of a tensor run over.

    Raises:
        KeyError: no Adamba has a tensor of this name.
    """
    words = name.split(".")
    return AXES.get(".".join(words[-2:])) or AXES[".".join(words[-3:])]


def _positions(axis: str, small: Config, large: Config) -> slice | torch.Tensor:
    if axis in PREFIXES:
        return slice(PREFIXES[axis](small))
    return EVERYTHING if axis == "all" else {"in_proj": _in_proj, "conv": _conv}[axis](small, large)


def index_of(name: str, small: Config, large: Config) -> Index:
    """Return where the smaller model's tensor lies in the larger one's tensor of the same name.

    Raises:
        KeyError: no Adamba has a tensor of this name.
    """
    return tuple(_positions(axis, small, large) for axis in axes_of(name))


def take(tensor: torch.Tensor, index: Index) -> torch.Tensor:
    """Return the part of a tensor: a view where all of it are prefixes, else a copy; gradients flow back either way."""
    for dimension, part in enumerate(index):
        if isinstance(part, torch.Tensor):
            tensor = tensor.index_select(dimension, part.to(tensor.device))
        elif part.stop is not None:
            tensor = tensor.narrow(dimension, 0, part.stop)
    return tensor


def put(tensor: torch.Tensor, index: Index, part: torch.Tensor) -> None:
    """Write a part where `take` would read it. Works in place, without a copy of either."""
    listed: tuple[int, torch.Tensor] | None = None
    for dimension, positions in enumerate(index):
        if isinstance(positions, torch.Tensor):
            listed = (dimension, positions.to(tensor.device))
        elif positions.stop is not None:
            tensor = tensor.narrow(dimension, 0, positions.stop)
    if listed is None:
        tensor.copy_(part)
    else:
        tensor.index_copy_(*listed, part)
