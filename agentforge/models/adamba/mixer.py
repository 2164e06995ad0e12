"""The Mamba-2 mixer of an Adamba."""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers.models.falcon_h1.modeling_falcon_h1 import FalconH1Mixer, compute_mup_vector

from agentforge.models.adamba.configuration import AdambaConfig

DT_RANGE = (1e-3, 1e-1)
A_RANGE = (1.0, 16.0)


class AdambaMixer(FalconH1Mixer):
    """FalconH1's mixer."""

    mup_vector: torch.Tensor

    def __init__(self, config: AdambaConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.register_buffer("mup_vector", compute_mup_vector(config), persistent=False)


def fresh_mamba(mixer: FalconH1Mixer, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
    """Return the values that mamba_ssm's Mamba2 starts with, by parameter name; `out_proj` is not among them.

    The time steps are log-uniform in 1e-3..1e-1 (`dt_bias` is the inverse of softplus at them), the decays uniform in
    1..16, D is 1; the projection and the convolution have torch's own defaults. FalconH1's defaults (`dt_bias` 1, A
    1..heads) forget the past within a few tokens.
    """

    def uniform(low: float, high: float, *size: int) -> torch.Tensor:
        return torch.rand(size, generator=generator) * (high - low) + low

    rows, inputs = mixer.in_proj.weight.shape
    channels, _, kernel = mixer.conv1d.weight.shape
    heads = mixer.dt_bias.numel()
    dt = torch.exp(uniform(math.log(DT_RANGE[0]), math.log(DT_RANGE[1]), heads))
    values = {
        "dt_bias": dt + torch.log(-torch.expm1(-dt)),
        "A_log": torch.log(uniform(*A_RANGE, heads)),
        "D": torch.ones(heads),
        "in_proj.weight": uniform(-(inputs**-0.5), inputs**-0.5, rows, inputs),
        "conv1d.weight": uniform(-(kernel**-0.5), kernel**-0.5, channels, 1, kernel),
    }
    if mixer.use_conv_bias:
        values["conv1d.bias"] = uniform(-(kernel**-0.5), kernel**-0.5, channels)
    if mixer.use_bias:
        values["in_proj.bias"] = torch.zeros(rows)
    return values


@torch.no_grad()
def init_mamba(mixer: nn.Module, generator: torch.Generator | None = None) -> None:
    """Overwrite a FalconH1 mixer's parameters with `fresh_mamba`'s values; `out_proj` stays as it is.

    Args:
        mixer: a `FalconH1Mixer` that is not on the meta device.
        generator: a CPU generator; None is torch's own.
    """
    for name, value in fresh_mamba(mixer, generator).items():  # type: ignore[arg-type]
        mixer.get_parameter(name).copy_(value)
