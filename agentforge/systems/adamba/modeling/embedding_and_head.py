"""The two ends of a model: tokens into the residual stream, and hidden states into logits.

Full depth, every width and every exit go through here, and so does the streamed proof, so that no path forgets a
multiplier, a nanochat's normed embedding or its soft cap. They are functions and not subclasses of `nn.Embedding` and
`nn.Linear`: transformers puts a plain layer in the place of a head that it resizes, and LoRA on a layer that bends its
own output cannot be merged.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def embed(stack: Any, tokens: Tensor) -> Tensor:
    """Return what the first layer reads of tokens `(B, T)`: `(B, T, D)`.

    Args:
        stack: an Adamba, a FalconH1 or a Llama without its head.
        tokens: their ids.
    """
    embedded: Tensor = stack.embed_tokens(tokens)
    if hasattr(stack, "embedding_norm"):
        embedded = stack.embedding_norm(embedded)
    multiplier = getattr(stack, "embedding_multiplier", 1.0)
    return embedded if multiplier == 1 else embedded * multiplier


def head(model: Any, hidden_states: Tensor) -> Tensor:
    """Return logits `(..., V)` of hidden states `(..., D)` behind the final norm.

    A nanochat's are ``c * tanh(logits / c)``. Logits are the largest tensor there is, so nothing is multiplied by 1.

    Args:
        model: an Adamba, a FalconH1 or a Llama with its head.
        hidden_states: of its last layer, or of an exit.
    """
    logits: Tensor = model.lm_head(hidden_states)
    multiplier = getattr(model.model, "lm_head_multiplier", None) or 1.0
    cap = getattr(model.config, "logit_softcap", None)
    if cap is not None:
        return torch.tanh(logits * (multiplier / cap)) * cap
    return logits if multiplier == 1 else logits * multiplier
