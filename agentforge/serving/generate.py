"""`generate`: go on with a text, for models that were never taught a conversation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import TextStreamer, set_seed

from agentforge.data.codec import begins_texts, codec_of
from agentforge.data.tokenizer import load_tokenizer
from agentforge.errors import UserError
from agentforge.models.locate_model import ModelLocation, locate_model
from agentforge.recipe.schema import Recipe
from agentforge.rollouts.policies.transformers_policy import load_weights
from agentforge.serving.terminal_input import checked_text


@dataclass(frozen=True)
class Sampler:
    """How the text is drawn.

    Attributes:
        tokens: how many are written at most; a byte-level model writes a byte with each.
        temperature: 0: always the likeliest token.
        top_p, top_k: what is drawn from; 1 and 0: everything.
        seed: of the draws.
    """

    tokens: int
    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def options(self) -> dict[str, Any]:
        """Return the arguments of `generate`; all of them, or transformers would sample with defaults of its own."""
        if self.temperature == 0:
            return {"do_sample": False}
        return {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}


def generate(recipe: Recipe, which: str | None, prompt: str, sampler: Sampler) -> str:
    """Print a prompt and what a model writes behind it, as it is written, and return the whole text.

    The prompt is read as it is: nothing is put around it, stripped or padded.

    Args:
        recipe: names the model.
        which: see `locate_model`.
        prompt: any text; empty only where the tokenizer has a token to begin with.
        sampler: how to draw.

    Raises:
        UserError: a GGUF, nothing to begin with, or a prompt that is no UTF-8.
    """
    checked_text(prompt, "--prompt")
    location = locate_model(recipe, which)
    if location.kind == "gguf":
        raise UserError(f"generate opens checkpoints and adapters; chat opens GGUF files such as {location.path}")
    tokenizer = _tokenizer(location)
    ids = _prompt_ids(tokenizer, prompt)
    model: Any = load_weights(location)
    set_seed(sampler.seed)
    print(prompt, end="", flush=True)
    with torch.inference_mode():
        made = model.eval().generate(
            input_ids=ids.to(model.device),
            attention_mask=torch.ones_like(ids).to(model.device),
            max_new_tokens=sampler.tokens,
            streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True),
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
            **sampler.options(),
        )
    return prompt + tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)


def _tokenizer(location: ModelLocation) -> Any:
    return load_tokenizer(location.path, location.revision if location.kind == "hf" else None)


def _prompt_ids(tokenizer: Any, prompt: str) -> torch.Tensor:
    (ids,) = codec_of(tokenizer).read_plain([prompt])  # a control token that the prompt spells stays text
    if begins_texts(tokenizer):
        ids = [tokenizer.bos_token_id, *ids]
    if not ids:
        raise UserError("the prompt is empty and the tokenizer has no token to begin with; give a --prompt")
    return torch.tensor([ids])
