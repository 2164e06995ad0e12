"""Thinking: a shared block that refines each patch's latent a few times before the bytes are decoded from it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agentforge.systems.agiformer.modeling.configuration import AgiformerConfig
from agentforge.systems.agiformer.modeling.layers import Mlp


class Thinking(nn.Module):
    """``z <- z + sigmoid(gate(norm z)) * MLP(norm z)``, K times with the same weights, each patch by itself.

    A patch's steps read nothing but its own latent, so they need no cache and cannot leak.
    """

    def __init__(self, config: AgiformerConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.steps = config.thinking_steps
        self.norm = nn.RMSNorm(size, config.rms_norm_eps)
        self.gate = nn.Linear(size, size)
        self.mlp = Mlp(size, config.intermediate_size)
        self.halt = nn.Linear(size, 1) if config.thinking_halting != "none" else None

    def step(self, latents: Tensor) -> Tensor:
        """Return the latents `(..., D)` after one more step."""
        normed = self.norm(latents)
        return latents + torch.sigmoid(self.gate(normed)) * self.mlp(normed)

    def halting_logits(self, latents: Tensor) -> Tensor:
        """Return `(...)`, before the sigmoid: whether to stop with these latents."""
        assert self.halt is not None
        return self.halt(self.norm(latents))[..., 0].float()

    def all_steps(self, latents: Tensor, steps: int) -> list[Tensor]:
        """Return the latents after 0 to ``steps`` steps."""
        made = [latents]
        for _ in range(steps):
            made.append(self.step(made[-1]))
        return made

    def until_halted(self, latents: Tensor, steps: int, threshold: float | None) -> tuple[Tensor, Tensor]:
        """Return the last latents `(R, N, D)`, and how many steps each took `(R, N)`.

        A patch whose cumulative halting probability has reached the threshold is not computed any further.
        """
        taken = torch.full(latents.shape[:-1], steps, device=latents.device)
        if threshold is None or self.halt is None:
            for _ in range(steps):
                latents = self.step(latents)
            return latents, taken
        flat, count = latents.reshape(-1, latents.shape[-1]), taken.view(-1)
        active = torch.arange(len(flat), device=flat.device)
        going = torch.ones(len(flat), device=flat.device)  # probability of not having stopped yet
        for done in range(steps):
            going[active] *= torch.sigmoid(-self.halting_logits(flat[active]))
            stops = 1 - going[active] >= threshold
            count[active[stops]] = done
            active = active[~stops]
            if not len(active):
                break
            flat = flat.index_copy(0, active, self.step(flat[active]))
        return flat.view_as(latents), count.view_as(taken)
