"""AGIFORMER: bytes in patches below, a global stack over the patches, and a decoder that goes from byte to byte.

    bytes      b0 b1 b2 b3 | b4 b5 b6 b7 | b8 ..            patch_size 4
    patches    start         p0            p1               a patch is read when its last byte is there
    latents    z0            z1            z2               global stack, then K thinking steps each
    decoder    z0 z0 z0 z1   z1 z1 z1 z2   z2 ..            byte t reads the latest latent whose bytes are all <= t
    logits     b1 b2 b3 b4   b5 ..                          ordinary alignment: logits[t] are of byte t + 1

Nothing that byte t is decoded from lies behind it. The latent carries what is far away, the decoder's own window what
is near, across the borders of patches, so no byte is decoded without the byte before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import can_return_tuple

from agentforge.errors import UserError
from agentforge.models.own_cache import check_cache
from agentforge.systems.agiformer.modeling.cache import AgiformerCache, TextState, over_rows, put_rows
from agentforge.systems.agiformer.modeling.configuration import AgiformerConfig
from agentforge.systems.agiformer.modeling.counted import Contexts, row_keys
from agentforge.systems.agiformer.modeling.decoder import make_decoder, of_each_byte
from agentforge.systems.agiformer.modeling.documents import Documents, documents_of
from agentforge.systems.agiformer.modeling.layers import Block, LayerState, Span
from agentforge.systems.agiformer.modeling.ngrams import NgramEmbeddings, NgramTable, ngram_keys
from agentforge.systems.agiformer.modeling.outputs import AgiformerModelOutput
from agentforge.systems.agiformer.modeling.thinking import Thinking


@dataclass
class _Latents:
    """Latents that the new bytes are decoded from.

    Attributes:
        values: `(R, N, D)`: byte t of the new ones reads number ``(open + t + 1) // P``.
        thought: `(R, N)` steps that each took.
        counts: `(R,)` number of the last latent of each row.
        layers: states of the global stack.
    """

    values: Tensor
    thought: Tensor
    counts: Tensor
    layers: list[LayerState]


class AgiformerPreTrainedModel(PreTrainedModel):
    config_class = AgiformerConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    unpacked_by_default = "a row of several documents is taken apart and padded; rows of like length together cost less"
    _no_split_modules = ["Block", "GruDecoder", "Thinking"]  # noqa: RUF012  as in transformers
    _supports_sdpa = True
    _is_stateful = True

    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, NgramTable):
            # An n-gram that was never seen then says nothing, exactly as one that was forgotten in training.
            nn.init.zeros_(module.weight)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=std)
        elif isinstance(module, nn.RMSNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, nn.GRU):
            for weight in module.parameters():
                nn.init.normal_(weight, std=std) if weight.ndim > 1 else nn.init.zeros_(weight)
        elif isinstance(module, AgiformerModel):
            nn.init.normal_(module.start, std=std)


class AgiformerModel(AgiformerPreTrainedModel):
    """The body: everything below the head."""

    def __init__(self, config: AgiformerConfig) -> None:
        super().__init__(config)
        size, patch = config.hidden_size, config.patch_size
        self.embed_tokens = nn.Embedding(config.vocab_size, size, padding_idx=config.pad_token_id)
        self.patch_proj = nn.Linear(patch * size, size, bias=False)
        self.start = nn.Parameter(torch.zeros(size))  # the patch before the text
        self.layers = nn.ModuleList(
            Block(config, config.window_size, config.intermediate_size, linear=config.linear_attention)
            for _ in range(config.num_hidden_layers)
        )
        self.latent_norm = nn.RMSNorm(size, config.rms_norm_eps)
        self.thinking = Thinking(config) if config.thinking_steps else None
        self.up_proj = nn.Linear(size, patch * size, bias=False)
        self.ngrams = NgramEmbeddings(config) if config.ngram_sizes else None
        self.decoder = make_decoder(config)
        self.norm = nn.RMSNorm(size, config.rms_norm_eps)
        self.remembered = max([patch - 1, 1, *(n - 1 for n in [*config.ngram_sizes, *config.counted_sizes])])
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def set_input_embeddings(self, value: Any) -> None:
        self.embed_tokens = value

    def get_decoder(self) -> nn.Module:
        return self  # transformers would take the module `decoder`, which is only the part above the latents

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: AgiformerCache | None = None,
        use_cache: bool | None = None,
        thinking_steps: int | None = None,
        exit_threshold: float | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> AgiformerModelOutput:
        """Return hidden states `(B, T, D)`.

        Args:
            input_ids: `(B, T)` bytes and special tokens.
            attention_mask: `(B, past + T)`, 0 at padding on either side.
            position_ids: `(B, T)`; only where they restart counts: a new document begins there.
            past_key_values: of the text before.
            use_cache: return the cache behind this text.
            thinking_steps: in place of the config's; fewer or more.
            exit_threshold: in place of the config's; only in eval mode.
            output_hidden_states: in place of the config's.

        Raises:
            UserError: embeddings in place of bytes, another cache, or several documents in a row behind a cache.
        """
        if kwargs.get("inputs_embeds") is not None:
            raise UserError("inputs_embeds: an AGIFORMER remembers the bytes it has read; give it input_ids")
        check_cache(past_key_values, AgiformerCache, "an AGIFORMER")
        documents = documents_of(input_ids, attention_mask, position_ids)
        if past_key_values is not None and documents.packed:
            raise UserError(
                "position_ids: they begin a second document in a row, and a cache goes on with one document; give each "
                "a row of its own, or no cache"
            )
        past = None if past_key_values is None else past_key_values.state
        keep = bool(self.config.use_cache if use_cache is None else use_cache)
        keep = keep and not documents.packed and not (self.training and past is None)
        tokens = documents.take(input_ids)
        span = Span(None if past is None else past.seen, documents.lengths, keep)
        latents = self._latents(tokens, span, past, self._depth(thinking_steps, exit_threshold))
        decoded, decoder = self._decoded(tokens, latents, span, past)
        thought = of_each_byte(latents.thought, self._open(span), tokens.shape[1], self.config.patch_size)
        cache = None
        if keep:
            cache = past_key_values if past_key_values is not None else AgiformerCache()
            cache.state = self._state(tokens, latents, decoder, span, past)
            cache.columns += input_ids.shape[1]
        last = documents.put_back(self.norm(decoded[-1]))
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return AgiformerModelOutput(
            last_hidden_state=last,
            past_key_values=cache,
            hidden_states=(*(documents.put_back(states) for states in decoded[:-1]), last) if wanted else None,
            thinking_steps=documents.put_back(thought),
            contexts=self._contexts(tokens, past, documents),
        )

    def steps(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor | None, Contexts | None]:
        """Return what is decoded after each number of thinking steps, and when a byte's patch would stop.

        Returns:
            hidden states `(B, T, D)` after 0 to K steps; halting logits `(B, T, K + 1)`, None without halting; and the
            contexts of counted n-grams, as `forward` returns them.
        """
        documents = documents_of(input_ids, attention_mask, position_ids)
        tokens = documents.take(input_ids)
        span = Span(None, documents.lengths, keep=False)
        first = self._latents(tokens, span, None, (0, None))
        depth = self.config.thinking_steps
        values = [first.values] if self.thinking is None else self.thinking.all_steps(first.values, depth)
        hidden = []
        for latents in values:
            first.values = latents
            made, _ = self._decoded(tokens, first, span, None)
            hidden.append(documents.put_back(self.norm(made[-1])))
        contexts = self._contexts(tokens, None, documents)
        if self.thinking is None or self.thinking.halt is None:
            return hidden, None, contexts
        logits = torch.stack([self.thinking.halting_logits(latents) for latents in values], dim=-1)  # (R, N, K + 1)
        spread = of_each_byte(logits, self._open(span), tokens.shape[1], self.config.patch_size)
        return hidden, documents.put_back(spread), contexts

    def _contexts(self, tokens: Tensor, past: TextState | None, documents: Documents) -> Contexts | None:
        sizes = self.config.counted_sizes
        if not sizes:
            return None
        before = self._recent(tokens, past)[:, self.remembered - sizes[-1] + 1 :]
        keys = ngram_keys(torch.cat([before, tokens], dim=1), sizes)
        rows = row_keys(tokens, documents.lengths)[:, None].expand(tokens.shape)
        return documents.put_back(keys), documents.put_back(rows)

    def _depth(self, steps: int | None, threshold: float | None) -> tuple[int, float | None]:
        steps = self.config.thinking_steps if steps is None else steps
        if self.training:
            return steps, None
        return steps, self.config.exit_threshold if threshold is None else threshold

    def _open(self, span: Span) -> Tensor:
        """Return `(R,)` how many bytes of the open patch were read before."""
        if span.seen is None:
            return torch.zeros_like(span.lengths)
        return span.seen % self.config.patch_size

    def _latents(self, tokens: Tensor, span: Span, past: TextState | None, depth: tuple[int, float | None]) -> _Latents:
        complete = (self._open(span) + span.lengths) // self.config.patch_size  # (R,)
        patches = self._patches(tokens, span, past, int(complete.max()))
        if past is None:
            start = self.start.expand(len(tokens), 1, -1).to(patches.dtype)
            above = Span(None, complete + 1, span.keep)
            values, thought, layers = self._global(torch.cat([start, patches], dim=1), above, None, depth)
            return _Latents(values, thought, complete, layers)
        assert span.seen is not None
        done = 1 + span.seen // self.config.patch_size
        values, thought, layers = self._new_latents(patches, Span(done, complete, True), past, depth)
        values = torch.cat([past.latent[:, None], values], dim=1)
        return _Latents(values, torch.cat([past.thought[:, None], thought], dim=1), complete, layers)

    def _patches(self, tokens: Tensor, span: Span, past: TextState | None, count: int) -> Tensor:
        """Return the patches that the new bytes complete `(R, count, D)`."""
        patch = self.config.patch_size
        if past is None:
            inside = tokens[:, : count * patch]
        else:
            # bytes of the open patch lie right before the new ones
            together = torch.cat([past.recent[:, past.recent.shape[1] - patch + 1 :], tokens], dim=1)
            first = patch - 1 - self._open(span)
            index = first[:, None] + torch.arange(count * patch, device=tokens.device)
            inside = together.gather(1, index.clamp(max=together.shape[1] - 1))
        embedded = self.embed_tokens(inside)
        return self.patch_proj(embedded.reshape(len(tokens), count, patch * embedded.shape[-1]))

    def _new_latents(
        self, patches: Tensor, span: Span, past: TextState, depth: tuple[int, float | None]
    ) -> tuple[Tensor, Tensor, list[LayerState]]:
        # While single bytes are decoded, only the rows whose patch has just been completed go through the stack.
        rows = span.lengths.nonzero()[:, 0]
        values, thought = patches, patches.new_zeros(patches.shape[:2], dtype=torch.long)
        if not len(rows):
            return values, thought, past.layers
        assert span.seen is not None
        if len(rows) == len(patches):
            return self._global(patches, span, past.layers, depth)
        chosen = Span(span.seen[rows], span.lengths[rows], True)
        states = over_rows(past.layers, lambda tensor: tensor[rows])
        made, steps, layers = self._global(patches[rows], chosen, states, depth)
        return (
            values.index_copy(0, rows, made),
            thought.index_copy(0, rows, steps),
            put_rows(past.layers, rows, layers),
        )

    def _global(
        self, patches: Tensor, span: Span, states: list[LayerState] | None, depth: tuple[int, float | None]
    ) -> tuple[Tensor, Tensor, list[LayerState]]:
        kept = []
        for number, layer in enumerate(self.layers):
            patches, state = layer(patches, span, None if states is None else states[number])
            kept.append(state)
        latents = self.latent_norm(patches)
        steps, threshold = depth
        if self.thinking is None or not steps:
            return latents, torch.zeros(latents.shape[:2], dtype=torch.long, device=latents.device), kept
        latents, thought = self.thinking.until_halted(latents, steps, threshold)
        return latents, thought, kept

    def _decoded(
        self, tokens: Tensor, latents: _Latents, span: Span, past: TextState | None
    ) -> tuple[list[Tensor], list[LayerState]]:
        size = self.config.hidden_size
        rows, length = tokens.shape
        # A latent is spread over the P bytes that are decoded from it, to each another part.
        spread = self.up_proj(latents.values).view(rows, -1, size)
        place = self._open(span)[:, None] + 1 + torch.arange(length, device=tokens.device)
        place = place.clamp(max=spread.shape[1] - 1)
        inputs = self.embed_tokens(tokens) + spread.gather(1, place[..., None].expand(-1, -1, size))
        if self.ngrams is not None:
            inputs = inputs + self.ngrams(tokens, self._recent(tokens, past))
        made, states = self.decoder(inputs, latents.values, span, None if past is None else past.decoder)
        return [inputs, *made], states

    def _recent(self, tokens: Tensor, past: TextState | None) -> Tensor:
        if past is not None:
            return past.recent
        return torch.full((len(tokens), self.remembered), self.config.vocab_size, device=tokens.device)

    def _state(
        self, tokens: Tensor, latents: _Latents, decoder: list[LayerState], span: Span, past: TextState | None
    ) -> TextState:
        together = torch.cat([self._recent(tokens, past), tokens], dim=1)
        index = span.lengths[:, None] + torch.arange(self.remembered, device=tokens.device)
        rows = torch.arange(len(tokens), device=tokens.device)
        return TextState(
            seen=span.lengths if span.seen is None else span.seen + span.lengths,
            recent=together.gather(1, index),
            latent=latents.values[rows, latents.counts],
            thought=latents.thought[rows, latents.counts],
            layers=latents.layers,
            decoder=decoder,
        )
