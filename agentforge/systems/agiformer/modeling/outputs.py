"""What body and model return."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput

from agentforge.systems.agiformer.modeling.cache import AgiformerCache
from agentforge.systems.agiformer.modeling.counted import Contexts


@dataclass
class AgiformerModelOutput(ModelOutput):
    """What the body returns.

    Attributes:
        last_hidden_state: `(B, T, D)`.
        past_key_values: the cache.
        hidden_states: `(B, T, D)` before the decoder and behind each of its layers, the last behind the norm; what the
            global stack has is of patches and not among them.
        thinking_steps: `(B, T)` steps that the latent took which each byte is decoded from.
        contexts: of counted n-grams (see `counted.Contexts`); None: the config has none.
    """

    last_hidden_state: Tensor | None = None
    past_key_values: AgiformerCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    thinking_steps: Tensor | None = None
    contexts: Contexts | None = None


@dataclass
class AgiformerOutput(ModelOutput):
    """What the model returns: loss, logits `(B, T, V)`, and what the body returns."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: AgiformerCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    thinking_steps: Tensor | None = None
