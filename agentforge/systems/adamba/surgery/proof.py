"""Two models on the same tokens: by how much their logits differ, in float32 on the CPU, which rounds the same.

A checkpoint is run layer by layer: one layer, the embedding and the head are in memory, so that 20B parameters can be
proved where they can be written.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

from agentforge.models.auto import load_config
from agentforge.models.checkpoint import Checkpoint
from agentforge.models.proof import ROW_LENGTH, Proof, compare, load, logits_of, random_rows
from agentforge.systems.adamba.modeling.embedding_and_head import embed, head

__all__ = ["ROW_LENGTH", "Proof", "checkpoint_logits", "compare", "load", "logits_of", "prove", "random_rows"]

FINAL_NORMS = ("final_layernorm", "norm")


def checkpoint_logits(directory: Path, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return what `logits_of` returns of the model in a directory, run layer by layer."""
    checkpoint = Checkpoint(directory)
    return streamed_logits(load_config(directory), checkpoint.read, rows)


def streamed_logits(config: Any, read: Callable[[str], Tensor], rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """Run a Llama, a FalconH1 or an Adamba with one layer in memory.

    Args:
        config: of the whole model.
        read: gives each tensor by its name.
        rows: token ids.

    Returns:
        the float32 logits `(T, V)` of each row.
    """
    # One model of one layer: load a layer into it, run all rows through, load the next.
    model = _one_layer(config)
    names = [name for name in model.state_dict() if not name.startswith("model.layers.")]
    if config.tie_word_embeddings:
        names.remove("lm_head.weight")
    _fill(model, {name: read(name) for name in names})
    model.tie_weights()
    stack = model.model
    final = next(name for name in FINAL_NORMS if hasattr(stack, name))
    # Otherwise the stack would apply the final norm after every layer.
    norm = getattr(stack, final)
    setattr(stack, final, nn.Identity())
    in_layer = [name for name in model.state_dict() if name.startswith("model.layers.0.")]
    with torch.inference_mode():
        hidden = [embed(stack, torch.tensor([list(row)])) for row in rows]
        for layer in range(config.num_hidden_layers):
            _fill(model, {name: read(name.replace(".0.", f".{layer}.", 1)) for name in in_layer})
            hidden = [stack(inputs_embeds=state, use_cache=False).last_hidden_state for state in hidden]
        return [head(model, norm(state))[0] for state in hidden]


def _one_layer(config: Any) -> Any:
    """Return the model with one layer, its weights not drawn; attention that was dropped is zero in the weights."""
    short = copy.deepcopy(config)
    short.num_hidden_layers = 1
    for name in ("dropped_attention", "exit_layers"):
        if hasattr(short, name):
            setattr(short, name, [])
    with no_init_weights():
        return AutoModelForCausalLM.from_config(short, dtype=torch.float32).eval()


def _fill(model: Any, tensors: dict[str, Tensor]) -> None:
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=False)


def prove(old: Path, new: Path, rows: Sequence[Sequence[int]], bound: float) -> Proof:
    """Run two checkpoints, one after the other, and compare their logits.

    Raises:
        CheckRefused: they differ by more than ``bound``.
    """
    return compare(checkpoint_logits(old, rows), checkpoint_logits(new, rows), bound)
