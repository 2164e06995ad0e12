"""lm-eval's own model class around a checkpoint that the house has opened.

Everything that decides a score is left to lm-eval: how a prompt and a continuation are cut into tokens, which
log-likelihoods are summed, when a written answer ends. So a score equals that of ``lm_eval --model hf`` on the same
checkpoint, rows and batch size, to the last digit. Ours are only the opening (systems' classes, adapters, safetensors
alone) and the question whether this model's rows may be run together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from agentforge.data.chat_template import install_template
from agentforge.data.tokenizer import load_tokenizer
from agentforge.models.locate_model import ModelLocation
from agentforge.models.row_isolation import Way, isolation_of
from agentforge.rollouts.policies.transformers_policy import load_weights


class TransformersLM(HFLM):
    """A checkpoint, or a base with its adapter.

    Args:
        model: as `load_weights` returns it.
        tokenizer: its own.
        batch_size: rows that are run together, where that is proven not to change them; else one at a time.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        self.shortened = 0
        """Prompts that were longer than the model's context and lost their beginning."""

    @classmethod
    def open(cls, location: ModelLocation, batch_size: int) -> TransformersLM:
        """Load the weights in their own dtype, on the GPUs if there are any.

        Raises:
            UserError: the checkpoint cannot be read, or the adapter does not fit its base.
        """
        model = load_weights(location)
        tokenizer = load_tokenizer(location.path, location.revision if location.kind == "hf" else None)
        if location.template is not None:
            install_template(tokenizer, location.template, location.template_options, location.add_tokens)
        return cls(model, tokenizer, batch_size)

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        # Rows are padded on the right, without an attention mask: nothing that follows reaches back in a causal model.
        with self._proven("right"):
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        with self._proven("right"):
            return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
        # Prompts are padded on the left. A state (Mamba, RWKV) reads the padding, whatever the mask says.
        with self._proven("generated"), torch.no_grad():
            return super().generate_until(requests, disable_tqdm=disable_tqdm)

    @contextmanager
    def _proven(self, way: Way) -> Iterator[None]:
        wanted: int = self.batch_size_per_gpu  # type: ignore[has-type]  # lm-eval sets it in its constructor
        if wanted > 1 and not isolation_of(self.model).allows(way):
            self.batch_size_per_gpu = 1
        try:
            yield
        finally:
            self.batch_size_per_gpu = wanted

    def _loglikelihood_tokens(self, requests: Any, *args: Any, **options: Any) -> Any:
        # The last token of the continuation is only predicted, never read.
        self.shortened += sum(len(context) + len(answer) > self.max_length + 1 for _, context, answer in requests)
        return super()._loglikelihood_tokens(requests, *args, **options)

    def tok_batch_encode(self, strings: Any, *args: Any, left_truncate_len: int | None = None, **options: Any) -> Any:
        if left_truncate_len is not None:
            self.shortened += sum(len(self.tok_encode(string)) > left_truncate_len for string in strings)
        return super().tok_batch_encode(strings, *args, left_truncate_len=left_truncate_len, **options)
