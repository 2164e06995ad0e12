"""Policies of vLLM: token ids in and out, its own batching and prefix cache."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from agentforge.data import chat_template
from agentforge.errors import UserError
from agentforge.models.auto import load_config
from agentforge.models.locate_model import ModelLocation
from agentforge.recipe.rollouts_section import VLLM
from agentforge.rollouts.policies.base import (
    Completion,
    Decoder,
    Message,
    OnToken,
    Policy,
    Request,
    Sampling,
    ToolSchema,
)
from agentforge.systems.registry import system_of

SEEDS = 1 << 63
"""Seeds are signed 64-bit numbers there."""
ABORTED = "abort"
"""vLLM's reason of an answer that it broke off."""


class VLLMTokens(Policy):
    """What an engine in this process and one behind a server have in common: the tokenizer is ours, the turns vLLM's.

    Args:
        tokenizer: with a chat template.
        label: see `ModelLocation`.
        context_length: tokens read and written at most.
    """

    def __init__(self, tokenizer: Any, label: str, context_length: int) -> None:
        self.tokenizer = tokenizer
        self.label = label
        self.context_length = context_length
        self.stop_ids = chat_template.stop_token_ids(tokenizer)
        if isinstance(tokenizer.chat_template, str):
            self.dialect = chat_template.dialect_of(tokenizer)

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

    def settings(self, request: Request, sampling: Sampling) -> dict[str, Any]:
        """Return the fields of vLLM's `SamplingParams` for one turn, under the names that its server takes too."""
        return {
            "max_tokens": request.room,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "repetition_penalty": sampling.repetition_penalty,
            # each its own: a turn must not depend on what is beside it in the batch
            "seed": request.seed % SEEDS,
            "stop_token_ids": self.stop_ids,
            "ignore_eos": True,  # turns end where the template says, not where the checkpoint's generation config does
            "logprobs": 0,  # of the sampled token alone
        }

    def completion(self, token_ids: Sequence[int], logprobs: Sequence[float], finish_reason: str | None) -> Completion:
        """Return what vLLM wrote."""
        stopped = bool(token_ids) and token_ids[-1] in self.stop_ids
        return Completion(list(token_ids), stopped, list(logprobs), aborted=finish_reason == ABORTED or not token_ids)


class VLLMPolicy(VLLMTokens):
    """A model in a vLLM engine of this process. An episode's earlier turns are in the engine's prefix cache.

    Args:
        engine: an open `vllm.LLM`, made with ``logprobs_mode="processed_logprobs"``: those of what was sampled.
        tokenizer: with a chat template.
        label: see `ModelLocation`.
        lora: the `vllm.lora.request.LoRARequest` of an adapter.
    """

    def __init__(self, engine: Any, tokenizer: Any, label: str, lora: Any = None) -> None:
        super().__init__(tokenizer, label, int(engine.llm_engine.model_config.max_model_len))
        self.engine = engine
        self.lora = lora
        self._numbers = itertools.count()

    @classmethod
    def open(cls, location: ModelLocation, context_length: int | None = None, vllm: VLLM | None = None) -> VLLMPolicy:
        """Start an engine.

        Raises:
            UserError: vLLM is not installed.
        """
        from agentforge.data.tokenizer import load_tokenizer

        refuse_unknown_model(
            load_config(location.base or location.path, revision=location.revision or "main").to_dict()
        )
        module, vllm = import_vllm(), vllm or VLLM()
        if location.add_tokens:
            raise UserError("vLLM cannot add data.add_tokens to a base; set rollouts.engine to transformers for it")
        tokenizer = load_tokenizer(location.path, location.revision if location.kind == "hf" else None)
        if location.template is not None:
            chat_template.install_template(tokenizer, location.template, location.template_options)
        share = vllm.gpu_memory_utilization
        engine = module.LLM(
            model=location.base or location.path,
            revision=location.revision,
            trust_remote_code=location.trust_remote_code,
            max_model_len=context_length,
            enable_prefix_caching=True,
            enable_lora=location.kind == "adapter",
            max_lora_rank=512 if location.kind == "adapter" else 16,
            logprobs_mode="processed_logprobs",
            tensor_parallel_size=vllm.tensor_parallel,
            **({} if share is None else {"gpu_memory_utilization": share}),
        )
        if location.kind != "adapter":
            return cls(engine, tokenizer, location.label)
        request = importlib.import_module("vllm.lora.request")
        return cls(engine, tokenizer, location.label, request.LoRARequest(location.label, 1, location.path))

    def draw(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        settings = [self.parameters(request, sampling) for request in requests]
        prompts = [{"prompt_token_ids": list(request.token_ids)} for request in requests]
        outputs = self.engine.generate(prompts, settings, use_tqdm=False, lora_request=self.lora)
        return [self.read_output(output) for output in outputs]

    @contextmanager
    def decoder(self, sampling: Sampling, slots: int) -> Iterator[Decoder]:
        yield EngineDecoder(self, sampling, self._numbers)

    def parameters(self, request: Request, sampling: Sampling, **more: Any) -> Any:
        """Return vLLM's `SamplingParams` of a turn."""
        return import_vllm().SamplingParams(**self.settings(request, sampling), detokenize=False, **more)

    def read_output(self, output: Any) -> Completion:
        """Return the turn of a finished `vllm.RequestOutput`."""
        written = output.outputs[0]
        logprobs = [
            float(entry[token].logprob) for token, entry in zip(written.token_ids, written.logprobs or [], strict=True)
        ]
        return self.completion(list(written.token_ids), logprobs, written.finish_reason)


class EngineDecoder(Decoder):
    """Turns as requests to the engine, which joins and leaves its batch at any token: no slot waits for another.

    Args:
        policy: whose engine it is.
        sampling: of all turns.
        numbers: names of requests, never one twice.
    """

    def __init__(self, policy: VLLMPolicy, sampling: Sampling, numbers: Iterator[int]) -> None:
        self.policy = policy
        self.sampling = sampling
        self._engine = policy.engine.llm_engine
        self._numbers = numbers
        self._final = importlib.import_module("vllm.sampling_params").RequestOutputKind.FINAL_ONLY
        self._slots: dict[str, int] = {}

    def begin(self, slot: int, request: Request) -> None:
        name = str(next(self._numbers))
        self._slots[name] = slot
        parameters = self.policy.parameters(request, self.sampling, output_kind=self._final)
        prompt = {"prompt_token_ids": list(request.token_ids)}
        self._engine.add_request(name, prompt, parameters, lora_request=self.policy.lora)

    def advance(self) -> list[tuple[int, Completion]]:
        finished: list[tuple[int, Completion]] = []
        while not finished:
            for output in self._engine.step():
                if output.finished:
                    finished.append((self._slots.pop(output.request_id), self.policy.read_output(output)))
        return finished


def refuse_unknown_model(config: Mapping[str, Any]) -> None:
    """Refuse a model that only agentforge can run.

    Args:
        config: the content of its config.json.

    Raises:
        UserError: it belongs to a system.
    """
    # by its type alone: an Adamba in FalconH1's form has keys of its own, and vLLM knows it all the same
    if (system := system_of({"model_type": config.get("model_type")})) is not None:
        raise UserError(
            f"rollouts.engine: vLLM does not know the models of {system.name}; leave it out, and transformers plays"
        )


def import_vllm() -> Any:
    """Return the module.

    Raises:
        UserError: vLLM is not installed.
    """
    try:
        return importlib.import_module("vllm")
    except ImportError:
        raise UserError(
            "vLLM is not installed; run `pip install agentforge-train[vllm]` (needs a CUDA GPU), or leave it out"
        ) from None
