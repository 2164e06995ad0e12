"""`generate`: go on with a text, for models that were never taught a conversation."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TextStreamer, set_seed

from agentforge.data.chat_template import begins_texts, codec_of
from agentforge.data.tokenizer import load_tokenizer
from agentforge.errors import UserError
from agentforge.models.locate_model import ModelLocation, locate_model
from agentforge.recipe.schema import Recipe
from agentforge.rollouts.policies.transformers_policy import load_weights


def generate(
    recipe: Recipe,
    which: str | None,
    prompt: str,
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    top_k: int,
    seed: int,
) -> str:
    """Print a prompt and what a model writes behind it, as it is written, and return the whole text.

    The prompt is read as it is: nothing is put around it, stripped or padded.

    Args:
        recipe: names the model.
        which: see `locate_model`.
        prompt: any text; empty only where the tokenizer has a token to begin with.
        max_new_tokens: of the tokenizer; a byte-level model writes a byte with each.
        temperature: 0: always the likeliest token.
        top_p, top_k: what is drawn from; 1 and 0: everything.
        seed: of the draws.

    Raises:
        UserError: a GGUF, or nothing to begin with.
    """
    location = locate_model(recipe, which)
    if location.kind == "gguf":
        raise UserError(f"generate opens checkpoints and adapters; chat opens GGUF files such as {location.path}")
    tokenizer = _tokenizer(location)
    # transformers would sample with its own defaults for what is not named, so everything is named.
    drawn: dict[str, Any] = (
        {"do_sample": False}
        if temperature == 0
        else {
            "do_sample": True,
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
        }
    )
    ids = _prompt_ids(tokenizer, prompt)
    model: Any = load_weights(location)
    set_seed(seed)
    print(prompt, end="", flush=True)
    with torch.inference_mode():
        made = model.eval().generate(
            input_ids=ids.to(model.device),
            attention_mask=torch.ones_like(ids).to(model.device),
            max_new_tokens=max_new_tokens,
            streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True),
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
            **drawn,
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
