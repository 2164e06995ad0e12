"""A GGUF file as a model of lm-eval: llama.cpp in this process, with the logits of every position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from tqdm import tqdm

from agentforge.errors import UserError
from agentforge.models.locate_model import ModelLocation
from agentforge.rollouts.policies.gguf_policy import GGUFPolicy

MAX_NEW_TOKENS = 256
"""As lm-eval's other models, where a task does not say."""


class GGUFLM(TemplateLM):
    """Scores and writes one row at a time, with the file's own tokenizer.

    Args:
        policy: opened with ``logits_all``.
    """

    def __init__(self, policy: GGUFPolicy) -> None:
        super().__init__()
        self.policy = policy
        self.llama = policy.llama
        self.max_length = policy.context_length
        self.shortened = 0
        """Prompts that were longer than the context and lost their beginning."""

    @classmethod
    def open(cls, location: ModelLocation) -> GGUFLM:
        """Open the file; see `GGUFPolicy.open`."""
        return cls(GGUFPolicy.open(location, logits_all=True))

    @property
    def eot_token_id(self) -> int:
        return int(self.llama.token_eos())

    @property
    def prefix_token_id(self) -> int:
        # A converter writes a beginning of text into files of models that have none; whether it is one is a field of
        # its own. As for a checkpoint without one, the end of a text then stands for the beginning of the next.
        return int(self.llama.token_bos()) if self.policy.adds_bos else self.eot_token_id

    @property
    def tokenizer_name(self) -> str:
        return self.policy.label

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        # `add_bos` only asks for what the file says: most of them add nothing.
        add = add_special_tokens is not False
        return list(self.llama.tokenize(string.encode("utf-8"), add_bos=add, special=True))

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        return [
            self._score(context, answer)
            for _, context, answer in tqdm(requests, desc="Running loglikelihood requests", disable=disable_tqdm)
        ]

    def _score(self, context: list[int], answer: list[int]) -> tuple[float, bool]:
        """Return the log-likelihood of an answer behind its context, and whether greedy decoding would write it."""
        tokens = context + answer
        self.shortened += len(tokens) > self.max_length + 1
        read = tokens[-(self.max_length + 1) :][:-1]
        # Each row begins with an empty cache: taking back a part of it is not possible in files with a state.
        self.llama.reset()
        self.llama.eval(read)
        logits = torch.from_numpy(self.llama.scores[len(read) - len(answer) : len(read)]).log_softmax(-1)
        wanted = torch.tensor(answer)
        chosen = logits.gather(1, wanted[:, None])[:, 0]
        return float(chosen.sum()), bool((logits.argmax(-1) == wanted).all())

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        found = []
        for (text,) in tqdm([one.args for one in requests], disable=disable_tqdm):
            windows = utils.get_rolling_token_windows(
                self.tok_encode(text), self.prefix_token_id, max_seq_len=self.max_length, context_len=1
            )
            found.append(sum(self._score(*utils.make_disjoint_window(window))[0] for window in windows))
        return found

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        asked = [one.args for one in requests]
        return [
            self._write(prompt, options)
            for prompt, options in tqdm(asked, desc="Running generate_until requests", disable=disable_tqdm)
        ]

    def _write(self, prompt: str, options: dict[str, Any]) -> str:
        settings = normalize_gen_kwargs(options, MAX_NEW_TOKENS)
        if settings.get("do_sample"):
            raise UserError("this benchmark samples its answers, which is not supported for a GGUF; evaluate merged")
        until = handle_stop_sequences(settings["until"], eos=self.policy.decode([self.eot_token_id]))
        room = int(settings["max_gen_toks"])
        tokens = self.tok_encode(prompt)
        self.shortened += len(tokens) > self.max_length - room
        written: list[int] = []
        text = ""
        for token in self.llama.generate(tokens[-(self.max_length - room) :], temp=0.0, repeat_penalty=1.0):
            if token in self.policy.stop_ids:
                break
            written.append(int(token))
            text = self.policy.decode(written)
            if len(written) == room or any(stop in text for stop in until):
                break
        return str(postprocess_generated_text(generation=text, stop=until, think_end_token=None))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        if not add_generation_prompt:
            raise UserError(
                "this benchmark begins the answer itself, which a GGUF's chat template cannot; set "
                "evaluate.benchmarks.apply_chat_template to false"
            )
        return self.policy.write_prompt(chat_history)
