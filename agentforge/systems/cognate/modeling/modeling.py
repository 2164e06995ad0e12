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
from agentforge.models.own_cache import OwnCache, check_cache
from agentforge.systems.cognate.modeling.cache import CognateCache
from agentforge.systems.cognate.modeling.configuration import CognateConfig
from agentforge.systems.cognate.modeling.context import Columns, Context, describe, rotary, visible
from agentforge.systems.cognate.modeling.halting import answer_of, halting_probabilities
from agentforge.systems.cognate.modeling.layer import CognateLayer, rms_norm
from agentforge.systems.cognate.modeling.loop import Pass
from agentforge.systems.cognate.modeling.loss import IGNORED, answer_loss, summed_loss
from agentforge.systems.cognate.modeling.neural_memory import NeuralMemory
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
        hidden_states: `(B, T, D)` of the embeddings, behind each layer of the prelude, and behind each iteration.
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
        if isinstance(module, NeuralMemory):
            module.reset_parameters()
        elif isinstance(module, CognateModel):
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
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> CognateModelOutput:
        """Return the last hidden states `(B, T, hidden_size)`, behind the last norm; see `steps` for the arguments."""
        steps = self.steps(
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache, exit_threshold
        )
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        states = (*steps.prelude, *steps.hidden) if wanted else None
        return CognateModelOutput(steps.answer, steps.past_key_values, states, steps)

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
        forward = Pass(self, context, cache, self._threshold(exit_threshold))
        thought = forward.think(forward.prelude(x))
        if cache is not None:
            cache.append(new)
        logits = thought.halting_logits
        return StepStates(
            thought.hidden,
            answer_of(self.config, thought.hidden, logits),
            logits,
            None if logits is None else halting_probabilities(self.config, logits.detach()),
            *forward.readings.means(x),
            thought.steps,
            tuple(forward.read),
            real,
            cache,
        )

    def _threshold(self, asked: float | None) -> float | None:
        threshold = self.config.exit_threshold if asked is UNSET else asked
        if threshold is not None and self.config.halting == "none":
            raise UserError("exit_threshold: this model was made with halting: none, so it cannot tell when to stop")
        if self.halting_head is None:
            return None
        return self._practised_threshold() if self.training else threshold

    def _practised_threshold(self) -> float | None:
        """Draw the threshold of a training step; None: all tokens take all iterations in it.

        From 0.5 to 0.999, evenly in the logarithm of what is left to 1. The draws are torch's, whose state checkpoints
        keep.
        """
        if not self.config.halting_practice:
            return None
        draw, place = torch.rand(2).tolist()
        return 1 - 0.5 * 0.002**place if draw < self.config.halting_practice else None

    def _embed(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        if (input_ids is None) == (inputs_embeds is None):
            raise UserError("a Cognate reads either input_ids or inputs_embeds: give one of them")
        # A tied embedding is small, for the head's sake; the layers want an input of the size of what they add to it.
        embedded = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        return rms_norm(embedded, self.config.rms_norm_eps)

    def _cache(self, given: CognateCache | None, use_cache: bool | None) -> CognateCache | None:
        check_cache(given, CognateCache, "a Cognate")
        if self.gradient_checkpointing and self.training:
            # the layers are run again in the backward pass, and would write a second time
            if given is not None:
                raise UserError(
                    "gradient checkpointing runs layers twice, and a cache can be written once: use one of them"
                )
            return None
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


class CognateForCausalLM(OwnCache, CognatePreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A Cognate with its head."""

    called = "a Cognate"
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: CognateConfig) -> None:
        super().__init__(config)
        self.model = CognateModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def new_cache(self) -> CognateCache:
        return CognateCache(self.config)

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
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> CognateOutput:
        """Return logits `(B, T, vocab_size)`, and the loss where there are labels.

        Args:
            labels: `(B, T)`, -100 where nothing is trained; shifted here.
            logits_to_keep: how many last tokens get logits, or their indices; 0: all.
            num_items_in_batch: trained tokens of the whole step, which the loss is divided by; None: those of `labels`.

        The others are those of `CognateModel.steps`.
        """
        # by its forward pass, where accelerate and FSDP hook in
        read = self.model(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache,
            exit_threshold,
            output_hidden_states,
            return_dict=True,
        )
        steps = read.step_states
        logits = self.lm_head(slice_logits_to_keep(steps.answer, logits_to_keep))
        loss = None
        if labels is not None:
            loss = self._loss(steps, labels, num_items_in_batch)
        return CognateOutput(
            loss, logits, steps.past_key_values, read.hidden_states, steps.halting_steps, steps.halt_probabilities
        )

    def _loss(self, steps: StepStates, labels: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor:
        """Return what is trained, or in evaluation mode the cross-entropy of the logits, a trained token each."""
        if self.training:
            total, _ = summed_loss(self.config, steps, self.lm_head, labels)
        else:
            total = answer_loss(steps.answer, self.lm_head, labels)
        count = (labels[:, 1:] != IGNORED).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        return total / count
