"""The Mamba-2 mixer of an Adamba: FalconH1's parameters, kernels by where the tensors are, fast on a CPU."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import Cache
from transformers.integrations.accelerate import force_accelerate_hooks
from transformers.models.falcon_h1.modeling_falcon_h1 import FalconH1Mixer, compute_mup_vector
from transformers.utils.import_utils import is_mamba_2_ssm_available

from agentforge.errors import UserError
from agentforge.systems.adamba.modeling.configuration import AdambaConfig
from agentforge.systems.adamba.modeling.convolution import causal_convolution
from agentforge.systems.adamba.modeling.ssd import selective_scan, selective_step

DT_RANGE = (1e-3, 1e-1)
A_RANGE = (1.0, 16.0)
PACKED = ("seq_idx", "cu_seq_lens_q", "cu_seqlens")


class AdambaMixer(FalconH1Mixer):
    """FalconH1's mixer. Where mamba_ssm's or the Hub's kernels can run it is FalconH1's code, elsewhere it is ours.

    transformers chooses once, at import, by what is installed: a model on the CPU of a machine with mamba_ssm would get
    CUDA kernels.
    """

    # optional in the config class, never None once a config is made
    n_groups: int
    ssm_state_size: int
    conv_kernel_size: int
    ssm_in_multiplier: float
    time_step_limit: tuple[float, float]
    mup_vector: Tensor
    hub_kernels = False

    def __init__(self, config: AdambaConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.config = config
        self.register_buffer("mup_vector", compute_mup_vector(config), persistent=False)
        self.scaled = set(config.ssm_multipliers or [1.0]) != {1.0}

    @force_accelerate_hooks("conv1d")
    def forward(
        self,
        hidden_states: Tensor,
        cache_params: Cache | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Return what the mixer writes to the residual stream `(B, T, hidden_size)`.

        Args:
            hidden_states: `(B, T, hidden_size)`, normalised.
            cache_params: holds the layer's last inputs of the convolution and its state, and is brought up to date.
            attention_mask: `(B, T)`, 0 where a token is padding; None is no padding.
            kwargs: for the kernels.

        Raises:
            UserError: packed documents, which only the kernels keep apart.
        """
        if hidden_states.is_cuda and (self.hub_kernels or is_mamba_2_ssm_available()):
            return super().forward(hidden_states, cache_params, attention_mask, **kwargs)
        if any(kwargs.get(name) is not None for name in PACKED):
            raise UserError(
                "packed documents cannot be kept apart without mamba_ssm on a CUDA GPU: set packing to false"
            )
        # Mamba-2 in one breath: one projection gives the gate, the channels x, B and C, and the step sizes dt. The
        # channels pass through a short convolution and then the scan. dt decides how much a token writes and how much
        # of the past fades.
        gate, channels, dt = self._project(hidden_states, attention_mask)
        scanned = self._scan(channels, dt, cache_params, attention_mask)
        return self.out_proj((scanned * functional.silu(gate)).to(hidden_states.dtype))

    def _project(self, hidden_states: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, ...]:
        """Return the gate `(B, T, inner)`, the channels x, B and C before the convolution, and dt `(B, T, heads)`."""
        if self.ssm_in_multiplier != 1:
            hidden_states = hidden_states * self.ssm_in_multiplier
        projected = self.in_proj(hidden_states)
        if self.scaled:
            projected = projected * self.mup_vector
        if attention_mask is not None:  # here and not before the projection: its bias would reach the first tokens
            projected = projected * attention_mask.unsqueeze(-1).to(projected.dtype)
        return projected.split([self.intermediate_size, self.conv_dim, self.num_heads], dim=-1)

    def _scan(self, channels: Tensor, dt: Tensor, cache: Cache | None, attention_mask: Tensor | None) -> Tensor:
        """Return the scan's outputs `(B, T, inner)`."""
        state = None if cache is None else cache.get_recurrent_state(self.layer_idx, state_idx=0)
        channels = self.act(self._convolve(channels, cache))
        if attention_mask is not None:  # again: the convolution's taps and bias reach into the padding behind a row
            channels = channels * attention_mask.unsqueeze(-1).to(channels.dtype)
        size = self.n_groups * self.ssm_state_size
        x, B, C = channels.split([self.intermediate_size, size, size], dim=-1)
        B, C = B.unflatten(-1, (self.n_groups, -1)), C.unflatten(-1, (self.n_groups, -1))
        # Decays multiply along the whole row; in bf16 every token would add a rounding error to the state.
        dtype = torch.promote_types(x.dtype, torch.float32)
        dt = functional.softplus(dt.to(dtype) + self.dt_bias.to(dtype)).clamp(*self.time_step_limit)
        inputs = (x.unflatten(-1, (self.num_heads, -1)), dt, -torch.exp(self.A_log.to(dtype)), B, C, self.D)
        if state is not None and x.shape[1] == 1:
            return selective_step(*inputs, state).flatten(2)
        y, end = selective_scan(*inputs, state)
        if cache is not None:
            cache.update_recurrent_state(end, self.layer_idx)
        return y.flatten(2)

    def _convolve(self, channels: Tensor, cache: Cache | None) -> Tensor:
        """Return the causal convolution over the channels; the cache's inputs stand before them."""
        weight, bias = self.conv1d.weight, self.conv1d.bias
        if cache is None:
            return causal_convolution(channels, weight, bias)
        past = cache.get_conv_state(self.layer_idx, state_idx=0)
        # One token: shift the window and take one weighted sum. A cache that records its past (to roll back in
        # assisted decoding) needs the inputs themselves and takes the general path below.
        if past is not None and channels.shape[1] == 1 and not cache.is_recording_past(self.layer_idx):
            past.copy_(torch.cat([past[..., 1:], channels.transpose(1, 2)], -1))
            one = (past * weight.squeeze(1)).sum(-1)
            return (one if bias is None else one + bias).unsqueeze(1)
        kernel, length = self.conv_kernel_size, channels.shape[1]
        seen = cache.update_conv_state(channels.transpose(1, 2), self.layer_idx, conv_kernel_size=kernel)
        # The K - 1 inputs before the new ones. At the start of a row there are fewer; zeros take their place.
        before = seen[..., : seen.shape[-1] - length][..., 1 - kernel :]
        before = functional.pad(before, (kernel - 1 - before.shape[-1], 0))
        return causal_convolution(channels, weight, bias, before.transpose(1, 2))


def fresh_mamba(mixer: FalconH1Mixer, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """Return the values that mamba_ssm's Mamba2 starts with, by parameter name; `out_proj` is not among them.

    The time steps are log-uniform in 1e-3..1e-1 (`dt_bias` is the inverse of softplus at them), the decays uniform in
    1..16, D is 1; the projection and the convolution have torch's own defaults. FalconH1's defaults (`dt_bias` 1, A
    1..heads) forget the past within a few tokens.
    """

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return torch.rand(size, generator=generator) * (high - low) + low

    # softplus(dt_bias) is the step size before the input has any say, and exp(-dt A) is the share of the state that
    # survives it. A head's memory is about 1 / (dt A) tokens, so a fresh mixer has heads that span from one token to
    # a thousand.
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
