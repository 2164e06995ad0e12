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
class Shape:
    """The sizes that nest, by their names in the config. Sizes of a head and of the state are one for all widths."""

    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    mamba_n_heads: int
    num_hidden_layers: int

    @classmethod
    def of(cls, config: Config) -> Shape:
        return cls(**{field.name: getattr(config, field.name) for field in fields(cls)})

    def fits_in(self, other: Shape) -> bool:
        """Tell whether every size is at most the other's."""
        return all(size <= getattr(other, name) for name, size in asdict(self).items())

    def scaled(self, share: Fraction) -> Shape:
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
        return Shape(**sizes)


def resized(config: Config, shape: Shape) -> Any:
    """Return the config of a model of another shape inside, or around, that of ``config``.

    RMSNorm divides by the root of the mean over all channels. A model that has grown from ``base_hidden_size`` channels
    and whose new channels are still zero would see its old ones grow by ``sqrt(new / base)``. The multipliers that
    FalconH1 has behind each norm take that back, and so does the epsilon; the weights stay as they are, and the old
    model is still in the new one bit for bit. Below the base the multipliers are 1.
    """
    changed = copy.deepcopy(config)
    for name, size in asdict(shape).items():
        setattr(changed, name, size)
    changed.mamba_d_ssm = shape.mamba_n_heads * config.mamba_d_head
    base = getattr(config, "base_hidden_size", None) or config.hidden_size
    epsilon = getattr(config, "base_rms_norm_eps", None) or config.rms_norm_eps
    share = min(1.0, base / shape.hidden_size)
    old = min(1.0, base / config.hidden_size)
    factor = math.sqrt(share / old)
    changed.base_hidden_size, changed.base_rms_norm_eps = base, epsilon
    changed.rms_norm_eps = epsilon * share
    changed.attention_in_multiplier = config.attention_in_multiplier * factor
    changed.ssm_in_multiplier = config.ssm_in_multiplier * factor
    changed.mlp_multipliers = [multiplier * factor for multiplier in config.mlp_multipliers]
    changed.lm_head_multiplier = config.lm_head_multiplier * factor
    return changed


def _in_proj(small: Config, large: Config) -> torch.Tensor:
    """Rows are [gate | x | B | C | dt]; B and C belong to the groups and are shared by all heads."""
    inner, outer = small.mamba_d_ssm, large.mamba_d_ssm
    states = 2 * small.mamba_n_groups * small.mamba_d_state
    parts = [(0, inner), (outer, inner), (2 * outer, states), (2 * outer + states, small.mamba_n_heads)]
    return torch.cat([torch.arange(start, start + size) for start, size in parts])


def _conv(small: Config, large: Config) -> torch.Tensor:
    """Channels are [x | B | C]."""
    states = 2 * small.mamba_n_groups * small.mamba_d_state
    outer = large.mamba_d_ssm
    return torch.cat([torch.arange(small.mamba_d_ssm), torch.arange(outer, outer + states)])


def _prefix(size: Callable[[Config], int]) -> Callable[[Config, Config], slice]:
    return lambda small, large: slice(size(small))


_hidden = _prefix(lambda config: config.hidden_size)
_units = _prefix(lambda config: config.intermediate_size)
_queries = _prefix(lambda config: config.num_attention_heads * config.head_dim)
_keys = _prefix(lambda config: config.num_key_value_heads * config.head_dim)
_heads = _prefix(lambda config: config.mamba_n_heads)
_inner = _prefix(lambda config: config.mamba_d_ssm)


def _all(small: Config, large: Config) -> slice:
    return EVERYTHING


AXES: dict[str, tuple[Callable[[Config, Config], slice | torch.Tensor], ...]] = {
    "embed_tokens.weight": (_all, _hidden),
    "lm_head.weight": (_all, _hidden),
    "input_layernorm.weight": (_hidden,),
    "pre_ff_layernorm.weight": (_hidden,),
    "final_layernorm.weight": (_hidden,),
    "self_attn.q_proj.weight": (_queries, _hidden),
    "self_attn.k_proj.weight": (_keys, _hidden),
    "self_attn.v_proj.weight": (_keys, _hidden),
    "self_attn.o_proj.weight": (_hidden, _queries),
    "feed_forward.gate_proj.weight": (_units, _hidden),
    "feed_forward.up_proj.weight": (_units, _hidden),
    "feed_forward.down_proj.weight": (_hidden, _units),
    "mamba.in_proj.weight": (_in_proj, _hidden),
    "mamba.out_proj.weight": (_hidden, _inner),
    "mamba.conv1d.weight": (_conv, _all, _all),
    "mamba.conv1d.bias": (_conv,),
    "mamba.dt_bias": (_heads,),
    "mamba.A_log": (_heads,),
    "mamba.D": (_heads,),
}
"""What each tensor's dimensions run over, by the end of its name."""


def index_of(name: str, small: Config, large: Config) -> Index:
    """Return where the smaller model's tensor lies in the larger one's tensor of the same name.

    Raises:
        KeyError: no Adamba has a tensor of this name.
    """
    end = ".".join(name.split(".")[-2:])
    axes = AXES.get(end) or AXES[".".join(name.split(".")[-3:])]
    return tuple(axis(small, large) for axis in axes)


def take(tensor: torch.Tensor, index: Index) -> torch.Tensor:
    """Return the part of a tensor: a view where all of it are prefixes, else a copy; gradients flow back either way."""
    for dimension, part in enumerate(index):
        if isinstance(part, torch.Tensor):
            tensor = tensor.index_select(dimension, part.to(tensor.device))
        elif part.stop is not None:
            tensor = tensor.narrow(dimension, 0, part.stop)
    return tensor


def put(tensor: torch.Tensor, index: Index, part: torch.Tensor) -> None:
    """Write a part where `take` would read it."""
    grid = [
        (torch.arange(tensor.shape[d])[i] if isinstance(i, slice) else i).to(tensor.device) for d, i in enumerate(index)
    ]
    tensor[torch.meshgrid(*grid, indexing="ij")] = part
