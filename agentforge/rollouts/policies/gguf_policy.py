"""Policies of llama.cpp: a GGUF file, its own tokenizer and its own chat template."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any, ClassVar

import torch
from torch import Tensor

from agentforge.data.codec import any_of, guard_control_tokens
from agentforge.data.dialects.dialect import Dialect
from agentforge.data.dialects.probe import find_dialect
from agentforge.data.dialects.rendering import Template
from agentforge.data.dialects.rows import prompt_row
from agentforge.data.messages import escape, normalize
from agentforge.errors import UserError
from agentforge.installation import gguf_setup
from agentforge.models.locate_model import ModelLocation
from agentforge.recipe.hardware import available_cores
from agentforge.rollouts.policies.base import Completion, Message, OnToken, Policy, Request, Sampling, ToolSchema
from agentforge.rollouts.policies.constraints import GrammarTokenizer, Vocabulary, require_llguidance
from agentforge.rollouts.policies.sampling import draw_next
from agentforge.rollouts.policies.steering import Steering

DEFAULT_CONTEXT = 8192
"""Tokens. llama.cpp allocates the whole cache at once: a 32B model's own 131072 would take 32 GiB."""
SMALL_FILE = 64 << 20
"""Bytes. llama.cpp's threads wait for each other by spinning, some hundred times a token: where a token takes less than
a millisecond that is most of the time, and on a machine with other work it is a hundred times the time."""


def _threads(path: str) -> int:
    if os.path.exists(path) and os.path.getsize(path) < SMALL_FILE:
        return 1
    return available_cores()


def _trained_length(path: str) -> int:
    """Return the tokens that a file's model was made for; 0: it is no model, or does not say so."""
    import llama_cpp

    logging.getLogger("llama-cpp-python").setLevel(logging.CRITICAL)  # as `Llama(verbose=False)` does, later
    options = llama_cpp.llama_model_default_params()
    options.vocab_only = True  # no weights
    model = llama_cpp.llama_model_load_from_file(path.encode(), options)
    if not model:
        return 0
    try:
        architecture = _metadata(model, "general.architecture")
        return int(_metadata(model, f"{architecture}.context_length") or 0)
    finally:
        llama_cpp.llama_model_free(model)


def _metadata(model: Any, key: str) -> str:
    import llama_cpp

    buffer = ctypes.create_string_buffer(128)
    found = llama_cpp.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return buffer.value.decode("utf-8", errors="replace") if found >= 0 else ""


class GGUFPolicy(Policy):
    """A model in llama.cpp. What was read before is kept: a prompt that begins alike is read from where it differs.

    Args:
        llama: an open `llama_cpp.Llama`.
        template: the chat template out of the file.
        label: see `ModelLocation`.
    """

    dialect: Dialect
    max_slots: ClassVar[int | None] = 1  # it holds one conversation: a second would push the first out

    def __init__(self, llama: Any, template: str, label: str) -> None:
        import llama_cpp

        self.llama = llama
        self.label = label
        self.context_length = min(int(llama.n_ctx()), int(llama_cpp.llama_model_n_ctx_train(llama.model)))
        self._library = llama_cpp
        self._vocabulary = llama_cpp.llama_model_get_vocab(llama.model)
        self._pieces: dict[int, bytes] = {}
        tokens = range(llama_cpp.llama_vocab_n_tokens(self._vocabulary))
        ends = [t for t in tokens if llama_cpp.llama_vocab_is_eog(self._vocabulary, t)]
        self.stop_ids = list(dict.fromkeys([llama.token_eos(), *ends]))
        self._grammar_tokenizer: GrammarTokenizer | None = None
        self._control = self._control_tokens()
        self._control_pattern = any_of(self._control)
        eos, bos = (self._piece(token).decode("utf-8") for token in (llama.token_eos(), llama.token_bos()))
        self._begin = bos if self.adds_bos else ""
        # transformers renders it, in jinja2's immutable sandbox: a template is code from whoever made the file.
        self._template = Template(template, (("bos_token", bos), ("eos_token", eos)))
        self.dialect = find_dialect(self._template, self._control_pattern, eos)

    @classmethod
    def open(
        cls, location: ModelLocation, context_length: int | None = None, *, logits_all: bool = False
    ) -> GGUFPolicy:
        """Open a GGUF file.

        Args:
            logits_all: keep the logits of every position that is read, for log-likelihoods.

        Raises:
            UserError: llama-cpp-python is not installed, the file is no model, or it has no chat template.
        """
        try:
            import llama_cpp
        except ImportError:
            raise UserError(f"a GGUF needs llama-cpp-python, which is not installed; run `{gguf_setup()}`") from None
        threads = _threads(location.path)
        try:
            length = context_length or min(DEFAULT_CONTEXT, _trained_length(location.path) or DEFAULT_CONTEXT)
            llama = llama_cpp.Llama(
                location.path,
                n_ctx=length,
                n_threads=threads,
                n_threads_batch=threads,
                n_gpu_layers=-1,
                logits_all=logits_all,
                verbose=False,
            )
        except (ValueError, AssertionError) as error:
            raise UserError(
                f"{location.path} cannot be loaded by llama.cpp {llama_cpp.__version__}: {error}"
            ) from error
        template = llama_cpp.llama_model_chat_template(llama.model, None)
        if template is None:
            raise UserError(f"{location.path} has no chat template; make it with `agentforge gguf`, which stores one")
        return cls(llama, template.decode("utf-8"), location.label)

    def encode(self, messages: Sequence[Message], tools: Sequence[ToolSchema] = ()) -> list[int]:
        given = normalize(messages)
        given = escape(given) if self._template.is_ours else given
        (turns, offered), guard = guard_control_tokens([given, list(tools) or None], self._control_pattern)
        prompt = prompt_row(self._template, self.dialect, turns, offered)
        tokens = self._tokenize(self._begin, "") if not prompt.text.startswith(self._begin) else []
        for text in prompt.stretches():
            tokens += [t for piece in self._control_pattern.split(text) for t in self._tokenize(piece, guard)]
        return tokens

    @property
    def adds_bos(self) -> bool:
        """Whether the file says that every text begins with its beginning-of-text token."""
        return bool(self._library.llama_vocab_get_add_bos(self._vocabulary))

    def write_prompt(self, messages: Sequence[Message]) -> str:
        """Return messages as the file's template writes them, up to where the answer begins."""
        return self._template.render(list(messages), None, prompt=True)

    def _tokenize(self, piece: str, guard: str) -> list[int]:
        """Return a piece's tokens. A control token spelt in a message is cut at its guard: llama.cpp would read it."""
        if piece in self._control:
            return [self._control[piece]]
        parts = piece.split(guard) if guard else [piece]
        return [t for part in parts for t in self.llama.tokenize(part.encode("utf-8"), add_bos=False, special=False)]

    def decode(self, token_ids: Sequence[int]) -> str:
        return b"".join(self._piece(token) for token in token_ids).decode("utf-8", errors="replace")

    def complete(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, on_token: OnToken | None = None
    ) -> list[Completion]:
        return [self._write(row, prompt, Steering(sampling), on_token) for row, prompt in enumerate(prompts)]

    def draw(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        return [self._draw_one(request, sampling) for request in requests]

    def write(self, prompt: Sequence[int], steering: Steering, on_token: OnToken | None = None) -> Completion:
        return self._write(0, prompt, steering, on_token)

    def _write(self, row: int, prompt: Sequence[int], steering: Steering, on_token: OnToken | None) -> Completion:
        room = self.room([prompt], steering.sampling)
        steering.begin(prompt)
        tokens = self._likeliest(prompt) if steering.is_plain else self._chosen(prompt, steering.choose)
        return self._written(tokens, room, row, on_token)

    def grammar_tokenizer(self) -> GrammarTokenizer:
        if self._grammar_tokenizer is None:
            require_llguidance()
            tokens = [self._piece(token) for token in range(self._library.llama_vocab_n_tokens(self._vocabulary))]

            def plain(text: str) -> list[int]:
                (guarded,), guard = guard_control_tokens([text], self._control_pattern)
                return self._tokenize(guarded, guard)

            vocabulary = Vocabulary(tokens, self._control, self.stop_ids[0], plain)
            self._grammar_tokenizer = GrammarTokenizer(vocabulary, self.stop_ids)
        return self._grammar_tokenizer

    def _draw_one(self, request: Request, sampling: Sampling) -> Completion:
        random = Random(request.seed)
        context = list(request.token_ids)
        logprobs: list[float] = []

        def choose(logits: Any) -> int:
            (token,), (logprob,) = draw_next(logits[None], sampling, [random.random()], [context])
            context.append(token)
            logprobs.append(logprob)
            return token

        written = self._written(self._chosen(request.token_ids, choose), request.room)
        return replace(written, logprobs=logprobs[: len(written.token_ids)])

    def _likeliest(self, prompt: Sequence[int]) -> Iterator[int]:
        return iter(self.llama.generate(list(prompt), temp=0.0, repeat_penalty=1.0))

    def _chosen(self, prompt: Sequence[int], choose: Callable[[Tensor], int]) -> Iterator[int]:
        """Yield tokens that ``choose`` takes from the logits `(V,)`.

        llama.cpp's own sampler is not used: it does not say how likely a token was, it applies the temperature after
        the filters and not before, and its repetition penalty sees the last 64 tokens only.
        """
        import numpy as np
        from llama_cpp import LogitsProcessorList

        failures: list[BaseException] = []

        def process(_: Any, scores: Any) -> Any:
            only = np.full_like(scores, -1e30)
            try:
                only[choose(torch.from_numpy(np.array(scores)))] = 0.0
            except BaseException as error:  # this is called from C, where ctypes would print it and go on: Ctrl-C too
                failures.append(error)
            return only

        processors = LogitsProcessorList([process])
        for token in self.llama.generate(list(prompt), temp=0.0, repeat_penalty=1.0, logits_processor=processors):
            if failures:
                raise failures[0]
            yield int(token)

    def _written(self, tokens: Iterator[int], room: int, row: int = 0, on_token: OnToken | None = None) -> Completion:
        written: list[int] = []
        for token in tokens:
            written.append(int(token))
            if written[-1] in self.stop_ids:
                return Completion(written, stopped=True)
            if (on_token is not None and on_token(row, written[-1])) or len(written) == room:
                break
        return Completion(written, stopped=False)

    def _control_tokens(self) -> dict[str, int]:
        """Return the text and id of every token that is no ordinary text."""
        kinds = self._library.LLAMA_TOKEN_ATTR_CONTROL | self._library.LLAMA_TOKEN_ATTR_USER_DEFINED
        tokens = range(self._library.llama_vocab_n_tokens(self._vocabulary))
        special = (t for t in tokens if self._library.llama_vocab_get_attr(self._vocabulary, t) & kinds)
        return {text: t for t in special if (text := self._piece(t).decode("utf-8", errors="replace"))}

    def _piece(self, token: int) -> bytes:
        """Return a token's bytes. `Llama.detokenize` is not used: it loses tokens of more than 32 bytes."""
        if token < 0:
            return b""
        if token not in self._pieces:
            size = 64
            buffer = ctypes.create_string_buffer(size)
            length = self._library.llama_token_to_piece(self._vocabulary, token, buffer, size, 0, True)
            if length < 0:  # too small: the length that it needs
                size = -length
                buffer = ctypes.create_string_buffer(size)
                length = self._library.llama_token_to_piece(self._vocabulary, token, buffer, size, 0, True)
            self._pieces[token] = buffer.raw[:length]
        return self._pieces[token]
