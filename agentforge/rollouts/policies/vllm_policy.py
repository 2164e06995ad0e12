"""A policy of vLLM: token ids in and out, its own batching and prefix cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentforge.data import chat_template
from agentforge.errors import UserError
from agentforge.models.locate_model import ModelLocation
from agentforge.rollouts.policies.base import Completion, Message, OnToken, Policy, Request, Sampling, ToolSchema


class VLLMPolicy(Policy):
    """A model in a vLLM engine of this process. An episode's earlier turns are in the engine's prefix cache.

    Args:
        engine: an open `vllm.LLM`, made with ``logprobs_mode="processed_logprobs"``: those of what was sampled.
        tokenizer: with a chat template.
        label: see `ModelLocation`.
        lora: the `vllm.lora.request.LoRARequest` of an adapter.
    """

    def __init__(self, engine: Any, tokenizer: Any, label: str, lora: Any = None) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.label = label
        self.lora = lora
        self.context_length = int(engine.llm_engine.model_config.max_model_len)
        self.stop_ids = chat_template.stop_token_ids(tokenizer)

    @classmethod
    def open(cls, location: ModelLocation, context_length: int | None = None) -> VLLMPolicy:
        """Start an engine.

        Raises:
            UserError: vLLM is not installed.
        """
        try:
            from vllm import LLM
            from vllm.lora.request import LoRARequest
        except ImportError:
            raise UserError(
                "vLLM is not installed; run `pip install agentforge-train[vllm]` (needs a CUDA GPU), or leave it out"
            ) from None
        from agentforge.data.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(location.path, location.revision if location.kind == "hf" else None)
        if location.template is not None:
            chat_template.install_template(tokenizer, location.template)
        engine = LLM(
            model=location.base or location.path,
            revision=location.revision,
            trust_remote_code=location.trust_remote_code,
            max_model_len=context_length,
            enable_prefix_caching=True,
            enable_lora=location.kind == "adapter",
            max_lora_rank=512 if location.kind == "adapter" else 16,
            logprobs_mode="processed_logprobs",
        )
        lora = LoRARequest(location.label, 1, location.path) if location.kind == "adapter" else None
        return cls(engine, tokenizer, location.label, lora)

    def encode(self, messages: Sequence[Message], tools: Sequence[ToolSchema] = ()) -> list[int]:
        return chat_template.encode_prompt(self.tokenizer, messages, tools or None)

    def decode(self, token_ids: Sequence[int]) -> str:
        return str(
            self.tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )

    def complete(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, on_token: OnToken | None = None
    ) -> list[Completion]:
        if on_token is not None:
            raise UserError(
                "vLLM answers whole batches, so an answer cannot be streamed; chat with another kind of model"
            )
        room = self.room(prompts, sampling)
        return self.draw([Request(prompt, room, sampling.seed + row) for row, prompt in enumerate(prompts)], sampling)

    def draw(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        from vllm import SamplingParams

        # One for each request, because each has its own seed: a turn must not depend on what is beside it in the batch.
        settings = [
            SamplingParams(
                max_tokens=request.room,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                min_p=sampling.min_p,
                repetition_penalty=sampling.repetition_penalty,
                seed=request.seed % (1 << 63),  # a signed 64-bit number there
                stop_token_ids=self.stop_ids,
                logprobs=0,  # of the sampled token alone
                detokenize=False,
            )
            for request in requests
        ]
        prompts = [{"prompt_token_ids": list(request.token_ids)} for request in requests]
        outputs = self.engine.generate(prompts, settings, use_tqdm=False, lora_request=self.lora)
        return [self._completion(output.outputs[0]) for output in outputs]

    def _completion(self, output: Any) -> Completion:
        token_ids = list(output.token_ids)
        logprobs = [float(entry[token].logprob) for token, entry in zip(token_ids, output.logprobs, strict=True)]
        return Completion(token_ids, token_ids[-1] in self.stop_ids, logprobs)
