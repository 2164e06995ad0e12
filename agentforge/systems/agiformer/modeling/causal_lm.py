"""The AGIFORMER with its head over the next byte, and its losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationMixin
from transformers.utils import can_return_tuple

from agentforge.losses.halting import entropy_regularised_loss, pondernet_loss
from agentforge.systems.agiformer.modeling.cache import AgiformerCache
from agentforge.systems.agiformer.modeling.configuration import AgiformerConfig
from agentforge.systems.agiformer.modeling.counted import Contexts, CountedNgrams
from agentforge.systems.agiformer.modeling.generation import AgiformerGeneration
from agentforge.systems.agiformer.modeling.modeling import AgiformerModel, AgiformerPreTrainedModel
from agentforge.systems.agiformer.modeling.outputs import AgiformerOutput

IGNORED = -100


class AgiformerForCausalLM(AgiformerGeneration, AgiformerPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """The model with its head over the next byte."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012  as in transformers

    def __init__(self, config: AgiformerConfig) -> None:
        super().__init__(config)
        self.model = AgiformerModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.counted = CountedNgrams(config) if config.counted_sizes else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def set_input_embeddings(self, value: Any) -> None:
        self.model.embed_tokens = value

    def get_decoder(self) -> nn.Module:
        return self.model

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.lm_head = new_embeddings

    def count(self, rows: Sequence[Sequence[int]]) -> None:
        """Count the training text's n-grams, once, before training; nothing where the config asks for none."""
        if self.counted is not None and not self.config.counted[0]:
            self.counted.count(rows)

    def logits(self, hidden: Tensor, contexts: Contexts | None) -> Tensor:
        """Return the logits `(B, T, V)` of hidden states `(B, T, D)`."""
        logits = self.lm_head(hidden)
        if self.counted is None:
            return logits
        assert contexts is not None
        keys, rows = (values.flatten(0, 1).contiguous() for values in contexts)
        left_out = self.counted.left_out(rows) if self.training else torch.zeros_like(rows)
        return logits.float() + self.counted(hidden.flatten(0, 1), keys, left_out).view(logits.shape)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: AgiformerCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> AgiformerOutput:
        """Return logits `(B, T, V)`, and with labels `(B, T)` the loss, -100 where nothing is trained.

        The other arguments are those of `AgiformerModel.forward`; ``num_items_in_batch`` is what Trainer divides by.
        """
        items = kwargs.pop("num_items_in_batch", None)
        made = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        contexts = None if made.contexts is None else tuple(values[:, kept] for values in made.contexts)
        logits = self.logits(made.last_hidden_state[:, kept], contexts)
        loss = None
        if labels is not None:
            halts = self.training and self.config.thinking_halting != "none"
            total = self._halting_loss(input_ids, attention_mask, position_ids, labels) if halts else None
            loss = self._loss(logits, labels, items) if total is None else total / _count(labels, items)
        return AgiformerOutput(loss, logits, made.past_key_values, made.hidden_states, made.thinking_steps)

    def _loss(self, logits: Tensor, labels: Tensor, items: Any) -> Tensor:
        targets = labels[:, 1:].flatten()
        return _cross_entropy(logits, targets, "sum") / _count(labels, items)

    def _halting_loss(
        self, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None, labels: Tensor
    ) -> Tensor:
        """Return the loss of all thinking steps, weighted by where each byte's patch would stop, summed."""
        hidden, halting, contexts = self.model.steps(input_ids, attention_mask, position_ids)
        assert halting is not None
        targets = labels[:, 1:].flatten()
        trained = targets != IGNORED
        losses = torch.stack([_cross_entropy(self.logits(step, contexts), targets, "none") for step in hidden], dim=-1)
        losses, logits = losses[trained], halting[:, :-1].flatten(0, 1)[trained]  # (N, K + 1)
        weight = self.config.halting_weight
        if self.config.thinking_halting == "pondernet":
            return pondernet_loss(losses, logits, rate=self.config.halting_prior, beta=weight)
        return entropy_regularised_loss(losses, logits, beta=weight)


def _cross_entropy(logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets, reduction=reduction)


def _count(labels: Tensor, items: Any) -> Any:
    return (labels[:, 1:] != IGNORED).sum().clamp(min=1) if items is None else items
