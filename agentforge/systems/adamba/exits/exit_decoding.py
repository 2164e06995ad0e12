"""One token at a time through as many layers as it needs, with states of the skipped layers made up for later.

A token that leaves after layer k has no keys, values or Mamba state in the layers behind it, and later tokens need
them. ``exact``: its hidden state waits and is run through the deeper layers in one chunk with the next token that goes
there (Chen et al. 2024, EE-LLM, arXiv 2312.04916, section 4: recomputation), so all states are those of full depth; the
gain is that the weights of the deeper layers are read less often. ``copy``: the deeper layers make their keys, values
and states from the hidden state at the exit (Schuster et al. 2022, CALM, arXiv 2207.07061, section 3.4), which costs
less and is an approximation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask

from agentforge.systems.adamba.exits.exits import Confidence, ExitGate, confidence_of
from agentforge.systems.adamba.modeling.copied_states import copy_state
from agentforge.systems.adamba.modeling.embedding_and_head import embed, head

CatchUp = Literal["exact", "copy"]


@dataclass(frozen=True)
class ExitRule:
    """When a token leaves."""

    threshold: float
    confidence: Confidence
    gate: ExitGate | None = None


@dataclass
class Segment:
    """Layers between two exits.

    Attributes:
        layers: their indices.
        rule: the exit behind them; None: the end of the model.
        waiting: `(B, n, D)` hidden states of earlier tokens that have not come here yet; None: none.
    """

    layers: range
    rule: ExitRule | None
    waiting: Tensor | None = None

    def admit(self, hidden: Tensor) -> None:
        """Put hidden states behind those that wait."""
        self.waiting = hidden if self.waiting is None else torch.cat([self.waiting, hidden], dim=1)


class ExitDecoder:
    """Continues after a prompt that the whole model has read.

    Args:
        model: a FalconH1 or Adamba; called layer by layer.
        cache: its cache after the prompt.
        rules: exits by the number of layers run before each.
        catch_up: ``exact`` or ``copy``.

    Attributes:
        depths: layers that each token so far went through before it spoke.
    """

    def __init__(self, model: Any, cache: Cache, rules: Mapping[int, ExitRule], catch_up: CatchUp = "exact") -> None:
        self.model, self.cache, self.catch_up = model, cache, catch_up
        depth = model.config.num_hidden_layers
        borders = [0, *sorted(rules), depth]
        self.segments = [Segment(range(first, last), rules.get(last)) for first, last in pairwise(borders)]
        self.depths: list[int] = []
        self._given: dict[int, dict[str, Any]] = {}  # in this step, by the number of tokens

    def step(self, token: Tensor, positions: Tensor, mask: Tensor | None, unfinished: Tensor) -> Tensor:
        """Read one token a row and return the logits `(B, V)` after it.

        All rows go equally deep: they leave where every row that is still being written is sure enough.

        Args:
            token: `(B, 1)`.
            positions: `(B or 1, T)` of all tokens so far, this one included.
            mask: `(B, T)`, 0 at padding; None: no padding.
            unfinished: `(B)` bool; the others' confidence does not count.
        """
        # The new token moves from exit to exit, together with the tokens that were left waiting there. Layers process
        # them in order, so their cache ends up as full depth would have left it. Only the newest token is asked
        # whether it may leave.
        self._given = {}
        self.segments[0].admit(embed(self.model.model, token))
        for index, segment in enumerate(self.segments):
            hidden = self._run(segment, positions, mask)
            last = hidden[:, -1]
            if segment.rule is None:
                break
            normed = self.model.model.final_layernorm(last)
            logits = head(self.model, normed)
            sure = confidence_of(segment.rule.confidence, normed, logits, segment.rule.gate) >= segment.rule.threshold
            if bool((sure | ~unfinished).all()):
                self._leave(index, hidden, positions)
                self.depths.append(segment.layers.stop)
                return logits
            self.segments[index + 1].admit(hidden)
        self.depths.append(self.segments[-1].layers.stop)
        return head(self.model, self.model.model.final_layernorm(last))

    def finish(self, positions: Tensor, mask: Tensor | None) -> None:
        """Run what waits through the layers that it has not been in, so that the cache is that of full depth."""
        self._given = {}
        for index, segment in enumerate(self.segments):
            if segment.waiting is not None:
                hidden = self._run(segment, positions, mask)
                if index + 1 < len(self.segments):
                    self.segments[index + 1].admit(hidden)

    def _leave(self, index: int, hidden: Tensor, positions: Tensor) -> None:
        if self.catch_up == "exact":
            self.segments[index + 1].admit(hidden)
            return
        # Every deeper layer stores the keys and states it would have computed from the hidden state at the exit.
        rotary = self.model.model.rotary_emb(hidden, position_ids=positions[:, -1:])
        for layer in range(self.segments[index].layers.stop, self.model.config.num_hidden_layers):
            copy_state(self.model.model.layers[layer], hidden, self.cache, rotary)

    def _run(self, segment: Segment, positions: Tensor, mask: Tensor | None) -> Tensor:
        """Run all that waits before a segment through it; the newest token is the last of the result `(B, n, D)`."""
        hidden, segment.waiting = segment.waiting, None
        assert hidden is not None
        length = hidden.shape[1]
        # Mask and rotary embedding depend only on the number of tokens, so segments that read equally many share
        # them.
        if length not in self._given:
            self._given[length] = self._inputs(segment, hidden, positions[:, -length:], mask)
        for index in segment.layers:
            hidden = self.model.model.layers[index](hidden, **self._given[length])[0]
        return hidden

    def _inputs(self, segment: Segment, hidden: Tensor, positions: Tensor, mask: Tensor | None) -> dict[str, Any]:
        """Return what layers are given beside the last n tokens' hidden states: the same for all layers of a step."""
        causal = create_causal_mask(
            config=self.model.config,
            inputs_embeds=hidden,
            attention_mask=mask,
            # what these layers hold, which may be less than what the first ones do
            past_key_values=Cache(layers=[self.cache.layers[segment.layers.start]]),
            position_ids=positions,
        )
        return {
            "attention_mask": causal,
            "mamba_attention_mask": None,  # what is written is never padding
            "position_ids": positions,
            "past_key_values": self.cache,
            "use_cache": True,
            "position_embeddings": self.model.model.rotary_emb(hidden, position_ids=positions),
        }
