"""Policies of transformers: a checkpoint, or a base with a PEFT adapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)

from agentforge.data import chat_template
from agentforge.data.added_tokens import pieces_of_new_tokens
from agentforge.data.tokenizer import load_tokenizer
from agentforge.errors import UserError, first_line
from agentforge.manifest import check_bytes
from agentforge.models.locate_model import ModelLocation
from agentforge.models.new_tokens import add_rows, require_rows, rows_of_adapter
from agentforge.models.open_model import open_model
from agentforge.models.ragged_cache import carries_states
from agentforge.models.row_isolation import isolation_of
from agentforge.rollouts.policies.base import (
    Completion,
    Decoder,
    Message,
    OnToken,
    PlainDecoder,
    Policy,
    Request,
    Sampling,
    ToolSchema,
)
from agentforge.rollouts.policies.cached_decoding import CachedDecoder
from agentforge.rollouts.policies.constraints import GrammarTokenizer, grammar_tokenizer_of
from agentforge.rollouts.policies.generate_hooks import Drawing, Steered, Watch
from agentforge.rollouts.policies.state_decoding import StateDecoder
from agentforge.rollouts.policies.steering import Steering


class TransformersPolicy(Policy):
    """A causal language model and its tokenizer, whose chat template writes the prompt.

    The model may be one that is being trained: while it answers it is in evaluation mode and without its own
    generation settings, afterwards it is as it was.

    Args:
        model: on its device; with a PEFT adapter or without.
        tokenizer: with a chat template.
        label: see `ModelLocation`.
        context_length: tokens; None: what the model was made for.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        label: str,
        context_length: int | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.label = label
        # A state-space model's config names no longest context, for it has none.
        self.context_length = context_length or getattr(model.config, "max_position_embeddings", None) or 1 << 30
        self.stop_ids = chat_template.stop_token_ids(tokenizer)
        if isinstance(tokenizer.chat_template, str):
            self.dialect = chat_template.dialect_of(tokenizer)
        self._grammar_tokenizer: GrammarTokenizer | None = None

    @classmethod
    def open(cls, location: ModelLocation, context_length: int | None = None) -> TransformersPolicy:
        """Load the weights of ``location`` in their own dtype, on the GPUs if there are any.

        Raises:
            UserError: the checkpoint cannot be read, or the adapter does not fit its base.
        """
        model = load_weights(location)
        # The revision of an adapter is that of its base; the adapter's tokenizer lies in a local directory.
        revision = location.revision if location.kind == "hf" else None
        tokenizer = load_tokenizer(location.path, revision)
        if location.template is not None:
            chat_template.install_template(tokenizer, location.template, location.template_options, location.add_tokens)
        return cls(model, tokenizer, location.label, context_length)

    def encode(self, messages: Sequence[Message], tools: Sequence[ToolSchema] = ()) -> list[int]:
        return chat_template.encode_prompt(self.tokenizer, messages, tools or None)

    def decode(self, token_ids: Sequence[int]) -> str:
        return str(
            self.tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )

    def complete(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, on_token: OnToken | None = None
    ) -> list[Completion]:
        if not prompts:
            return []
        room = self.room(prompts, sampling)
        completions: dict[int, Completion] = {}
        for rows in self._batches(prompts):
            completions.update(self._run(rows, [prompts[row] for row in rows], room, sampling, on_token))
        return [completions[row] for row in range(len(prompts))]

    def write(self, prompt: Sequence[int], steering: Steering, on_token: OnToken | None = None) -> Completion:
        if steering.is_plain:
            return self.complete([prompt], steering.sampling, on_token)[0]
        room = self.room([prompt], steering.sampling)
        steering.begin(prompt)
        watch = [Watch([0], frozenset(self.stop_ids), on_token)] if on_token is not None else []
        with self._answering():
            generate: Any = self.model.generate
            ids = torch.tensor([list(prompt)], device=self.model.device)
            output = generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                # Greedy, because the logits processor has drawn already and leaves one token.
                generation_config=self._decoding(Sampling(0), room),
                logits_processor=LogitsProcessorList([Steered(steering)]),
                stopping_criteria=StoppingCriteriaList(watch),
            )
        return self._cut(output[0, len(prompt) :].tolist(), watch[0].ended.get(0) if watch else None)

    def grammar_tokenizer(self) -> GrammarTokenizer:
        if self._grammar_tokenizer is None:
            size = self._config().get_text_config().vocab_size
            self._grammar_tokenizer = grammar_tokenizer_of(self.tokenizer, size, self.stop_ids)
        return self._grammar_tokenizer

    @contextmanager
    def decoder(self, sampling: Sampling, slots: int) -> Iterator[Decoder]:
        with self._answering():
            if self.keeps_cache:
                kind: type[CachedDecoder] = StateDecoder if carries_states(self._config()) else CachedDecoder
                yield kind(self.model, self.stop_ids, sampling, slots)
            else:
                yield PlainDecoder(self, sampling)

    @property
    def keeps_cache(self) -> bool:
        """Whether episodes can keep their own cache over turns; if not, each turn reads them again.

        Needed is attention that takes any mask, and the proof that rows in such a cache come out as each by itself.
        """
        can_mask = self._config()._attn_implementation in ("sdpa", "eager")
        return can_mask and isolation_of(self.model).allows("carried")

    def draw(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        completions: dict[int, Completion] = {}
        for rows in self._batches([request.token_ids for request in requests]):
            drawn = self._draw_together([requests[row] for row in rows], sampling)
            completions.update(zip(rows, drawn, strict=True))
        return [completions[row] for row in range(len(requests))]

    def _draw_together(self, requests: list[Request], sampling: Sampling) -> list[Completion]:
        width = max(len(request.token_ids) for request in requests)
        gaps = [width - len(request.token_ids) for request in requests]
        padded = [[self._pad_id()] * gap + list(r.token_ids) for r, gap in zip(requests, gaps, strict=True)]
        mask = [[0] * gap + [1] * (width - gap) for gap in gaps]
        drawing = Drawing(requests, sampling)
        with self._answering():
            generate: Any = self.model.generate
            output = generate(
                input_ids=torch.tensor(padded, device=self.model.device),
                attention_mask=torch.tensor(mask, device=self.model.device),
                generation_config=self._decoding(Sampling(0), max(request.room for request in requests)),
                logits_processor=LogitsProcessorList([drawing]),
            )
        cut = [self._cut(ids, r.room) for ids, r in zip(output[:, width:].tolist(), requests, strict=True)]
        return [
            Completion(c.token_ids, c.stopped, [step[row] for step in drawing.logprobs[: len(c.token_ids)]])
            for row, c in enumerate(cut)
        ]

    def _base(self) -> PreTrainedModel:
        """Return the model under the adapter, if there is one."""
        model: Any = self.model
        return cast(PreTrainedModel, model.get_base_model() if hasattr(model, "get_base_model") else model)

    def _config(self) -> PreTrainedConfig:
        return self._base().config

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Put the model into evaluation mode, without gradients and without generation settings of its own.

        A checkpoint's own (repetition penalty, top-k ...) would change what is measured.
        """
        base = self._base()
        # Module by module: a frozen part may have been in evaluation mode before, and `train()` would end that.
        training = [module for module in self.model.modules() if module.training]
        settings = base.generation_config
        base.generation_config = GenerationConfig(eos_token_id=self.stop_ids, pad_token_id=self._pad_id())
        self.model.eval()
        try:
            # not inference_mode: a buffer that the model makes anew in there could not be trained with afterwards
            with torch.no_grad():
                yield
        finally:
            base.generation_config = settings
            for module in training:
                module.training = True

    def _batches(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return the rows that are run together: all of them, if padding before a row does not change what it draws.

        It does where a state takes the padding in (RWKV, RecurrentGemma): there only equal lengths go together.
        """
        rows, lengths = range(len(prompts)), {len(prompt) for prompt in prompts}
        if len(lengths) == 1 or isolation_of(self.model).allows("generated"):
            return [list(rows)]
        return [[row for row in rows if len(prompts[row]) == length] for length in sorted(lengths)]

    def _run(
        self, rows: list[int], prompts: list[Sequence[int]], room: int, sampling: Sampling, on_token: OnToken | None
    ) -> dict[int, Completion]:
        shared = self._shared(prompts)
        width = max(len(prompt) for prompt in prompts)
        gaps = [width - len(prompt) for prompt in prompts]
        padded = [[*p[:shared], *[self._pad_id()] * gap, *p[shared:]] for p, gap in zip(prompts, gaps, strict=True)]
        mask = [[1] * shared + [0] * gap + [1] * (width - shared - gap) for gap in gaps]
        criteria = StoppingCriteriaList()
        watch = Watch(rows, frozenset(self.stop_ids), on_token) if on_token is not None else None
        if watch is not None:
            criteria.append(watch)
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        # Forked: an answer must not move on the generator that the training around it draws its dropout from.
        with self._answering(), torch.random.fork_rng(devices):
            torch.manual_seed(sampling.seed)
            generate: Any = self.model.generate
            output = generate(
                input_ids=torch.tensor(padded, device=self.model.device),
                attention_mask=torch.tensor(mask, device=self.model.device),
                past_key_values=self._read_once(prompts[0][:shared], len(prompts)) if shared else None,
                generation_config=self._decoding(sampling, room),
                stopping_criteria=criteria,
            )
        written = output[:, width:].tolist()
        return {
            row: self._cut(ids, watch.ended.get(row) if watch else None) for row, ids in zip(rows, written, strict=True)
        }

    def _shared(self, prompts: list[Sequence[int]]) -> int:
        """Return how many first tokens of a batch are read only once.

        Prompts of one recipe begin with the same system turn and tools: of 950 tokens of an aj prompt, 900. Padding
        then stands behind the shared part, where a scan takes it in and a sliding window counts it.
        """
        if len(prompts) == 1 or not isolation_of(self.model).allows("gapped"):
            return 0
        first, last = (
            min(map(list, prompts)),
            max(map(list, prompts)),
        )  # in lexicographic order these two share what all share
        length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
        # At least one token of each prompt is read on its own: its logits are what the first new token is drawn from.
        return min(length, min(len(prompt) for prompt in prompts) - 1)

    def _read_once(self, prefix: Sequence[int], copies: int) -> Any:
        """Return the key-value cache of ``prefix`` for a batch of ``copies``."""
        cache = self.model(
            input_ids=torch.tensor([list(prefix)], device=self.model.device), use_cache=True
        ).past_key_values
        cache.batch_repeat_interleave(copies)
        return cache

    def _cut(self, ids: list[int], ended: int | None) -> Completion:
        """Drop what follows a row's end: the batch runs on until its last row has ended."""
        for position, token in enumerate(ids[:ended]):
            if token in self.stop_ids:
                return Completion(ids[: position + 1], stopped=True)
        return Completion(ids[:ended], stopped=False)

    def _decoding(self, sampling: Sampling, room: int) -> GenerationConfig:
        drawn: dict[str, Any] = {"do_sample": False}
        if sampling.temperature > 0:
            drawn = {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
                "min_p": sampling.min_p or None,
            }
        if sampling.repetition_penalty != 1:
            drawn["repetition_penalty"] = sampling.repetition_penalty
        pad = self._pad_id()
        return GenerationConfig(max_new_tokens=room, eos_token_id=self.stop_ids, pad_token_id=pad, **drawn)

    def _pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(self.stop_ids[0] if pad is None else pad)


def load_weights(location: ModelLocation, *, spread: bool = True) -> PreTrainedModel:
    """Load a checkpoint, or a base with its adapter on it.

    Args:
        location: where it is.
        spread: over all GPUs there are; else it is put on the first.
    """
    path = location.base or location.path
    placement = {"device_map": "auto" if spread else {"": 0}} if torch.cuda.is_available() else {}
    model = open_model(
        path,
        revision=location.revision,
        dtype="auto",
        trust_remote_code=location.trust_remote_code,
        **placement,
    )
    if location.kind == "hf":
        add_rows(model, pieces_of_new_tokens(location.add_tokens, path, location.revision))
        return model
    from peft import PeftModel

    check_bytes(Path(location.path))
    require_rows(model, rows_of_adapter(Path(location.path)))
    try:
        adapted = PeftModel.from_pretrained(model, location.path)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the adapter {location.path} does not fit the base {path}: {first_line(error)}") from error
    return cast(PreTrainedModel, adapted)  # it is not one, but has its config, device and generate
