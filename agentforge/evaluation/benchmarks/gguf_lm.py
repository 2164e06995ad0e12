"""A GGUF file as lm-eval asks it, token by token through llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from agentforge.models.locate_model import ModelLocation
from agentforge.rollouts.policies.gguf_policy import GGUFPolicy

MAX_NEW_TOKENS = 256
"""As lm-eval has it for transformers."""


class GGUFLM(TemplateLM):
    """Scores and writes one row at a time; what two rows begin with alike is read once.

    Attributes:
        shortened: prompts that were longer than the context and lost their beginning.
    """

    def __init__(self, llama: Any) -> None:
        super().__init__()
        self.llama = llama
        self.max_length = int(llama.n_ctx())
        self.shortened = 0

    @classmethod
    def open(cls, location: ModelLocation) -> GGUFLM:
        """Open a file.

        Raises:
            UserError: llama-cpp-python is not installed, or the file is no model.
        """
        return cls(GGUFPolicy.open(location).llama)

    @property
    def eot_token_id(self) -> int:
        return int(self.llama.token_eos())

    @property
    def prefix_token_id(self) -> int:
        bos = int(self.llama.token_bos())
        return bos if bos >= 0 else self.eot_token_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return tokens; with a begin token where the file says that texts have one."""
        begins = self.llama.metadata.get("tokenizer.ggml.add_bos_token", "false") == "true"
        begin = begins and add_special_tokens is not False
        return list(self.llama.tokenize(string.encode("utf-8"), add_bos=begin, special=True))

    def _logits_behind(self, tokens: Sequence[int]) -> Any:
        """Return the logits `(V,)` of the token that follows; the cache keeps what was read before."""
        known = self.llama.input_ids[: self.llama.n_tokens].tolist()
        shared = 0
        # The last token is read again in any case, because its logits may be gone.
        while shared < min(len(known), len(tokens) - 1) and known[shared] == tokens[shared]:
            shared += 1
        self.llama.n_tokens = shared
        self.llama._ctx.kv_cache_seq_rm(-1, shared, -1)
        self.llama.eval(list(tokens[shared:]))
        logits = self.llama._ctx.get_logits_ith(-1)
        return np.ctypeslib.as_array(logits, shape=(self.llama.n_vocab(),)).astype(np.float64)

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        return [self._score(context, continuation) for _, context, continuation in requests]

    def _score(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        tokens = context + continuation
        self.shortened += len(tokens) > self.max_length
        tokens = tokens[-self.max_length :]
        total, greedy = 0.0, True
        for place in range(max(len(tokens) - len(continuation), 1), len(tokens)):
            logits = self._logits_behind(tokens[:place])
            top = float(logits.max())
            total += float(logits[tokens[place]]) - top - float(np.log(np.exp(logits - top).sum()))
            greedy = greedy and int(logits.argmax()) == tokens[place]
        return total, greedy

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of whole texts, each token once, with as much context as fits."""
        found = []
        for (text,) in (request.args for request in requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text, add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length - 1,
                context_len=1,
            )
            found.append(sum(self._score(*pair)[0] for pair in map(make_disjoint_window, windows)))
        return found

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Return greedy continuations up to a stop sequence."""
        return [self._write(*request.args) for request in requests]

    def _write(self, context: str, options: dict[str, Any]) -> str:
        options = normalize_gen_kwargs(dict(options), MAX_NEW_TOKENS)
        until = handle_stop_sequences(options.pop("until", None), eos=self._text([self.eot_token_id], special=True))
        room = options["max_gen_toks"]
        tokens = self.tok_encode(context)
        self.shortened += len(tokens) > self.max_length - room
        tokens, written = tokens[-(self.max_length - room) :], list[int]()
        while len(written) < room:
            token = int(self._logits_behind(tokens + written).argmax())
            if token == self.eot_token_id:
                break
            written.append(token)
            if any(stop in self._text(written) for stop in until):
                break
        return str(postprocess_generated_text(self._text(written), until, None))

    def _text(self, tokens: list[int], special: bool = False) -> str:
        return str(self.llama.detokenize(tokens, special=special).decode("utf-8", errors="replace"))
