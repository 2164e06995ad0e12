"""Small policies for tests of rollouts: a random model, and a script that writes real tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from agentforge.data import chat_template
from agentforge.rollouts.policies.base import Completion, Message, OnToken, Policy, Request, Sampling, ToolSchema
from agentforge.rollouts.policies.transformers_policy import TransformersPolicy

TOYS: dict[str, dict[str, Any]] = {
    "add": {"class": "tests.rollouts.toys:Add"},
    "count": {"class": "tests.rollouts.toys:Count", "max_turns": 4, "noise": 6},
}
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
}


def random_policy(tokenizer: PreTrainedTokenizerFast, name: str = "qwen3", **sizes: Any) -> TransformersPolicy:
    """A random model whose logits are far enough apart to leave no doubt about the likeliest."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **({"vocab_size": len(tokenizer)} | (sizes or SIZES)))
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
    return TransformersPolicy(model, tokenizer, name)


class Scripted(Policy):
    """Writes what ``answer`` says to the tokens so far, in the tokens of a real tokenizer.

    Args:
        answer: the prompt as text to the turn's text.
        letters: writes one character a token, as no tokenizer would.

    Attributes:
        requests: everything it was asked.
    """

    context_length = 4096

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        answer: Callable[[str], str],
        letters: bool = False,
        stops: bool = True,
    ) -> None:
        self.tokenizer = tokenizer
        self.answer = answer
        self.letters = letters
        self.stops = stops
        self.label = "scripted"
        self.stop_ids = chat_template.stop_token_ids(tokenizer)
        self.requests: list[Request] = []

    def encode(self, messages: Sequence[Message], tools: Sequence[ToolSchema] = ()) -> list[int]:
        return chat_template.encode_prompt(self.tokenizer, messages, tools or None)

    def decode(self, token_ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(token_ids)))

    def complete(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, on_token: OnToken | None = None
    ) -> list[Completion]:
        return [self._one(prompt, sampling.max_new_tokens) for prompt in prompts]

    def draw(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        self.requests += requests
        return [self._one(request.token_ids, request.room) for request in requests]

    def _one(self, prompt: Sequence[int], room: int) -> Completion:
        text = self.answer(self.decode(prompt))
        parts = list(text) if self.letters else [text]
        ids = [i for part in parts for i in self.tokenizer.encode(part, add_special_tokens=False)]
        ids = (ids + self.stop_ids[:1] * self.stops)[:room]
        return Completion(ids, ids[-1] == self.stop_ids[0], [-0.5] * len(ids))
