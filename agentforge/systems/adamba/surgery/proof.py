"""Two models on the same tokens: by how much their logits differ, in float32 on the CPU, which rounds the same.

A checkpoint is run layer by layer: one layer, the embedding and the head are in memory, so that 20B parameters can be
proved where they can be written.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

from agentforge.errors import CheckRefused
from agentforge.models.auto import load_config
from agentforge.models.checkpoint import Checkpoint
from agentforge.systems.adamba.modeling.embedding_and_head import embed, head

ROW_LENGTH = 160
"""More than a chunk of the scan, so that the state that chunks hand on is in it."""
FINAL_NORMS = ("final_layernorm", "norm")


@dataclass(frozen=True)
class Proof:
    """How far a new model's logits are from the old one's.

    Attributes:
        max_logit_difference: greatest absolute difference.
        bound: greatest difference that was allowed.
        largest_logit: greatest absolute logit of the old model, for scale.
        tokens: positions compared.
    """

    max_logit_difference: float
    bound: float
    largest_logit: float
    tokens: int

    def as_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return asdict(self) | {"dtype": "float32"}


def random_rows(vocabulary: int, seed: int, count: int = 3) -> list[list[int]]:
    """Return rows of random tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocabulary, (count, ROW_LENGTH), generator=generator).tolist()


def load(directory: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Load a causal language model with the class that transformers takes for it.

    Raises:
        CheckRefused: weights are missing or left over, which transformers would only warn about.
    """
    load_config(directory)  # makes transformers know the type of a nanochat graft
    loaded: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, output_loading_info=True)
    model, report = loaded
    if problems := sorted(map(str, {*report["missing_keys"], *report["unexpected_keys"]})):
        raise CheckRefused(f"{directory}: {len(problems)} weights do not fit its config; the first is {problems[0]}")
    return model.eval()


def logits_of(model: Any, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return the logits `(T, V)` of each row."""
    with torch.inference_mode():
        return [model(input_ids=torch.tensor([list(row)]), use_cache=False).logits[0] for row in rows]


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


def compare(old: Sequence[Tensor], new: Sequence[Tensor], bound: float) -> Proof:
    """Return the proof that two models' logits agree.

    Args:
        old: logits `(T, V)` of each row.
        new: those of the other model.
        bound: of the differences; times the largest logit where that is above 1, as rounding grows with it.

    Raises:
        CheckRefused: they differ by more than ``bound``, or are not finite.
    """
    difference = max(float((a - b).abs().max()) for a, b in zip(old, new, strict=True))
    largest = max(float(a.abs().max()) for a in old)
    proof = Proof(difference, bound * max(1.0, largest), largest, sum(len(a) for a in old))
    if not difference <= proof.bound:  # also where it is NaN
        raise CheckRefused(
            f"the new model's logits differ from the old one's by up to {difference:.3g} on {proof.tokens} tokens "
            f"(the largest logit is {largest:.3g}), but only {proof.bound:.3g} is allowed; nothing was published"
        )
    return proof


def prove(old: Path, new: Path, rows: Sequence[Sequence[int]], bound: float) -> Proof:
    """Run two checkpoints, one after the other, and compare their logits.

    Raises:
        CheckRefused: they differ by more than ``bound``.
    """
    return compare(checkpoint_logits(old, rows), checkpoint_logits(new, rows), bound)
