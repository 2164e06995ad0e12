"""From patch latents to bytes: layers that read on across the borders of patches, or the specification's GRU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agentforge.systems.agiformer.modeling.configuration import AgiformerConfig
from agentforge.systems.agiformer.modeling.layers import Block, LayerState, Span


class TransformerDecoder(nn.Module):
    """A few layers of window attention over bytes."""

    def __init__(self, config: AgiformerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Block(config, config.byte_window, config.byte_intermediate_size, linear=False)
            for _ in range(config.num_byte_layers)
        )

    def forward(
        self, inputs: Tensor, latents: Tensor, span: Span, states: list[LayerState] | None
    ) -> tuple[list[Tensor], list[LayerState]]:
        """Return what is behind each layer `(R, T, D)`, of ``inputs`` `(R, T, D)`; the latents are in them already."""
        made, kept = [], []
        for number, layer in enumerate(self.layers):
            inputs, state = layer(inputs, span, None if states is None else states[number])
            made.append(inputs)
            kept.append(state)
        return made, kept if span.keep else []


class GruDecoder(nn.Module):
    """The specification's decoder: a GRU that starts anew from the latent in each patch."""

    def __init__(self, config: AgiformerConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.patch = config.patch_size
        self.first = nn.Linear(size, size)
        self.begin = nn.Parameter(torch.zeros(size))  # in place of the byte before the text
        self.gru = nn.GRU(size, size, batch_first=True)

    def forward(
        self, inputs: Tensor, latents: Tensor, span: Span, states: list[LayerState] | None
    ) -> tuple[list[Tensor], list[LayerState]]:
        """Return `(R, T, D)`, in a list as if of layers.

        Args:
            inputs: `(R, T, D)`.
            latents: `(R, N, D)`: byte t is decoded from number ``(open + t + 1) // P``, with ``open`` bytes in the open
                patch before.
            span: of the bytes.
            states: the hidden state before them.
        """
        if states is None:
            made = self._whole(inputs, latents)
            hidden = made.gather(1, (span.lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, made.shape[2]))[:, 0]
        else:
            made, hidden = self._step_by_step(inputs, latents, span, states[0].memory)
        return [made], [LayerState(memory=hidden)] if span.keep else []

    def _whole(self, inputs: Tensor, latents: Tensor) -> Tensor:
        # byte t stands at place t + 1 of a grid of patches; place 0 is taken by `begin`
        rows, length, size = inputs.shape
        groups = latents.shape[1]
        grid = inputs.new_zeros(rows, groups * self.patch, size)
        grid[:, 0] = self.begin
        grid[:, 1 : length + 1] = inputs
        start = torch.tanh(self.first(latents)).reshape(1, rows * groups, size)
        read, _ = self.gru(grid.view(rows * groups, self.patch, size), start)
        return read.reshape(rows, groups * self.patch, size)[:, 1 : length + 1]

    def _step_by_step(
        self, inputs: Tensor, latents: Tensor, span: Span, hidden: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        assert hidden is not None and span.seen is not None
        made = []
        for step in range(inputs.shape[1]):
            place = span.seen % self.patch + step + 1
            latent = latents.gather(1, (place // self.patch)[:, None, None].expand(-1, 1, latents.shape[2]))[:, 0]
            start = torch.where((place % self.patch == 0)[:, None], torch.tanh(self.first(latent)), hidden)
            read, last = self.gru(inputs[:, step : step + 1], start[None].contiguous())
            made.append(read)
            hidden = torch.where((step < span.lengths)[:, None], last[0], hidden)
        return torch.cat(made, dim=1), hidden


def make_decoder(config: AgiformerConfig) -> nn.Module:
    """Return the decoder that the config names."""
    return GruDecoder(config) if config.byte_decoder == "gru" else TransformerDecoder(config)


def of_each_byte(of_latents: Tensor, opened: Tensor, length: int, patch: int) -> Tensor:
    """Return what each byte's latent has: from `(R, N, ...)` to `(R, T, ...)`."""
    place = (opened[:, None] + 1 + torch.arange(length, device=opened.device)) // patch
    place = place.clamp(max=of_latents.shape[1] - 1)
    return of_latents[torch.arange(len(place), device=place.device)[:, None], place]
