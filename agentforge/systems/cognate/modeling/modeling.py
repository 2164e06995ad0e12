"""CognateForCausalLM: prelude, loop, halting head, and a language model's head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils.generic import can_return_tuple

from agentforge.errors import UserError
from agentforge.systems.cognate.modeling.cache import CognateCache
from agentforge.systems.cognate.modeling.configuration import CognateConfig
from agentforge.systems.cognate.modeling.context import Columns, Context, describe, rotary, visible
from agentforge.systems.cognate.modeling.generation import CognateGeneration
from agentforge.systems.cognate.modeling.layer import CognateLayer, Readings, rms_norm
from agentforge.systems.cognate.modeling.loss import summed_loss
from agentforge.systems.cognate.modeling.recursion import carried, iterate, learns
from agentforge.systems.cognate.modeling.steps import StepStates

UNSET: Any = object()
"""For `exit_threshold`, where None says that every token takes all iterations: what the config says."""


@dataclass
class CognateModelOutput(ModelOutput):
    """`CognateModel`'s: `steps` is what the head, the losses and the evaluations read."""

    last_hidden_state: Tensor | None = None
    past_key_values: CognateCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    step_states: StepStates | None = None


@dataclass
class CognateOutput(ModelOutput):
    """`CognateForCausalLM`'s.

    Attributes:
        loss: mean over the trained tokens; only with labels.
        logits: `(B, T, V)`, or of the tokens that `logits_to_keep` names.
        past_key_values: the cache.
        hidden_states: `(B, T, D)` before the loop and behind each iteration, if asked for.
        halting_steps: `(B, T)`, iterations that each token was computed in.
        halt_probabilities: `(B, T, K)`, p(stop at step k); None without a halting head.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: CognateCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    halting_steps: Tensor | None = None
    halt_probabilities: Tensor | None = None


class CognatePreTrainedModel(PreTrainedModel):
    """How a Cognate is initialised and saved."""

    config: CognateConfig
    config_class = CognateConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CognateLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True
    _is_stateful = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CognateModel):
            init.normal_(module.persistent, std=1.0)  # of the size that the norm before the projections gives
            init.normal_(module.initial, std=1.0)
            if module.halting_head is not None:
                init.constant_(module.halting_head.bias, -1.0)  # 1/4 stop at each step before the last


class CognateModel(CognatePreTrainedModel):
    """Everything but the head."""

    def __init__(self, config: CognateConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        prelude, layers = config.num_prelude_layers, config.num_hidden_layers
        self.prelude = nn.ModuleList(CognateLayer(config, index) for index in range(prelude))
        self.core = nn.ModuleList(CognateLayer(config, index) for index in range(prelude, layers))
        self.persistent = nn.Parameter(torch.empty(config.persistent_tokens, config.hidden_size))
        states = 2 if config.recursion == "trm" else 1
        self.initial = nn.Parameter(torch.empty(states, config.hidden_size))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.halting_head = nn.Linear(config.hidden_size, 1) if config.halts else None
        self.gradient_checkpointing = False
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: CognateCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        exit_threshold: float | None = UNSET,
        **kwargs: Any,
    ) -> CognateModelOutput:
        """Return the last hidden states `(B, T, hidden_size)`, behind the last norm; see `steps` for the arguments."""
        steps = self.steps(
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache, exit_threshold
        )
        return CognateModelOutput(steps.last, steps.past_key_values, None, steps)

    def steps(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: CognateCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        exit_threshold: float | None = UNSET,
    ) -> StepStates:
        """Run the model, and return its states after each iteration.

        Args:
            input_ids: `(B, T)`; or `inputs_embeds` `(B, T, hidden_size)`.
            attention_mask: `(B, T)` or, behind a cache, `(B, S + T)`: 0 where there is padding.
            position_ids: `(B, T)`; a token at 0 begins a document, and nothing before it is seen.
            past_key_values: a `CognateCache` of the tokens before; it is changed in place.
            use_cache: make a cache if there is none; by default in evaluation mode as the config says.
            exit_threshold: in evaluation mode in place of the config's.

        Raises:
            UserError: a mask for each query, another cache, or no input.
        """
        x = self._embed(input_ids, inputs_embeds)
        cache = self._cache(past_key_values, use_cache)
        real = self._real(attention_mask, x)
        context, new = self._context(x, real, position_ids, cache)
        read: dict[int, list[Readings]] = {}
        slots = iter(cache.slots) if cache is not None else None

        def run(layer: int, x: Tensor) -> Tensor:
            module = self.prelude[layer] if layer < len(self.prelude) else self.core[layer - len(self.prelude)]
            x, readings = module(x, self.persistent, context, None if slots is None else next(slots))
            if readings is not None:
                read.setdefault(layer, []).append(readings)
            return x

        def core(x: Tensor, call: int) -> Tensor:
            for layer in range(len(self.prelude), self.config.num_hidden_layers):
                x = run(layer, x)
            return x

        for layer in range(len(self.prelude)):
            x = run(layer, x)
        hidden = self._loop(core, rms_norm(x, self.config.rms_norm_eps))
        if cache is not None:
            cache.append(new)
        logits = None if self.halting_head is None else torch.cat([self.halting_head(h) for h in hidden], -1)
        taken = torch.full(x.shape[:2], self.config.max_recursions, device=x.device)
        return StepStates(hidden, logits, *_stacked(read, x), taken, real, cache)

    def _loop(self, core: Any, x: Tensor) -> tuple[Tensor, ...]:
        states = tuple(initial.to(x.dtype).expand_as(x) for initial in self.initial)
        hidden = []
        for iteration in range(self.config.max_recursions):
            with torch.set_grad_enabled(learns(self.config, iteration)):
                states = iterate(self.config, core, states, x)
                hidden.append(self.norm(states[-1]))
            states = carried(self.config, states)
        return tuple(hidden)

    def _embed(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        if (input_ids is None) == (inputs_embeds is None):
            raise UserError("a Cognate reads either input_ids or inputs_embeds: give one of them")
        # A tied embedding is small, for the head's sake; the layers want an input of the size of what they add to it.
        embedded = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        return rms_norm(embedded, self.config.rms_norm_eps)

    def _cache(self, given: CognateCache | None, use_cache: bool | None) -> CognateCache | None:
        if given is not None and not isinstance(given, CognateCache):
            raise UserError(
                f"a Cognate remembers in a CognateCache, not in a {type(given).__name__}; give none, and it makes one"
            )
        if given is not None:
            return given
        wanted = (self.config.use_cache and not self.training) if use_cache is None else use_cache
        return CognateCache(self.config) if wanted else None

    def _real(self, attention_mask: Tensor | None, x: Tensor) -> Tensor | None:
        if attention_mask is None:
            return None
        if attention_mask.dim() != 2:
            raise UserError("a Cognate takes an attention_mask of shape (rows, tokens), with 0 where padding is")
        real = attention_mask[:, -x.shape[1] :].bool()
        return None if bool(real.all()) else real

    def _context(
        self, x: Tensor, real: Tensor | None, position_ids: Tensor | None, cache: CognateCache | None
    ) -> tuple[Context, Columns]:
        config, past = self.config, None if cache is None else cache.columns
        if position_ids is not None:
            position_ids = position_ids.expand(x.shape[:2])
        new = describe(real, position_ids, past, (x.shape[0], x.shape[1]), x.device)
        positions = new.rank.clamp(min=0) if position_ids is None else position_ids
        cos, sin = rotary(positions, config.head_dim, config.rope_theta, x.dtype)
        starts = None
        if position_ids is not None:
            starts = (position_ids == 0) & (new.rank > 0)
            if real is not None:
                starts = starts & real
            starts = starts if bool(starts.any()) else None
        mask = visible(new, past, config.sliding_window, config.persistent_tokens)
        return Context(cos, sin, mask, starts, None if real is None else ~real), new


class CognateForCausalLM(CognateGeneration, CognatePreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A Cognate with its head."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: CognateConfig) -> None:
        super().__init__(config)
        self.model = CognateModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: CognateCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        exit_threshold: float | None = UNSET,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> CognateOutput:
        """Return logits `(B, T, vocab_size)`, and the loss where there are labels.

        Args:
            labels: `(B, T)`, -100 where nothing is trained; shifted here.
            logits_to_keep: how many last tokens get logits, or their indices; 0: all.
            num_items_in_batch: trained tokens of the whole step, which the loss is divided by; None: those of `labels`.

        The others are those of `CognateModel.steps`.
        """
        steps = self.model.steps(
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache, exit_threshold
        )
        logits = self.lm_head(slice_logits_to_keep(steps.last, logits_to_keep))
        loss = None
        if labels is not None:
            total, trained = summed_loss(self.config, steps, self.lm_head.weight, labels)
            loss = total / (trained.clamp(min=1) if num_items_in_batch is None else num_items_in_batch)
        return CognateOutput(loss, logits, steps.past_key_values, None, steps.halting_steps, steps.halt_probabilities)


def _stacked(read: dict[int, list[Readings]], like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return memory share, surprise and decay `(B, T, L)`, a layer's runs averaged."""
    if not read:
        nothing = like.new_zeros(*like.shape[:2], 0)
        return nothing, nothing, nothing

    def mean(name: str) -> Tensor:
        runs = (torch.stack([getattr(one, name) for one in read[layer]]).mean(0) for layer in sorted(read))
        return torch.stack(list(runs), -1)

    return mean("memory_share"), mean("surprise"), mean("decay")
