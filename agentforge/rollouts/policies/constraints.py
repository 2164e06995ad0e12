"""Grammars over tokens: at each step, which tokens still lead to a text that the grammar knows.

llguidance (https://github.com/guidance-ai/llguidance) does the work: an Earley parser over the bytes of the vocabulary,
about 50 microseconds a step. It is an optional extra, loaded when the first grammar is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentforge.errors import UserError


class GrammarRefused(UserError):
    """A grammar that cannot be held to: it is wrong, too large, or uses what is not known."""


class GrammarTokenizer:
    """A tokenizer as grammars see it: the bytes of its tokens. Making one takes about a second.

    Args:
        tokenizer: an `llguidance.LLTokenizer` whose end tokens are the policy's stop tokens.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def symbol(self, text: str) -> str:
        """Return how a Lark grammar of llguidance writes a text that the model may know as one control token.

        Control tokens are no text to llguidance: quoted text never matches them, only their ids do.
        """
        ids = self.tokenizer.tokenize_str(text, parse_special=True)
        return f"<[{ids[0]}]>" if len(ids) == 1 else _quoted(text)

    def is_token(self, text: str) -> bool:
        """Tell whether a text is one token."""
        return len(self.tokenizer.tokenize_str(text, parse_special=True)) == 1

    def constraint(self, grammar: str) -> TokenConstraint:
        """Compile a grammar in llguidance's Lark dialect.

        Raises:
            GrammarRefused: it is none, a schema in it has keywords that are not known, or it is too large.
        """
        from llguidance import LLMatcher

        matcher = LLMatcher(self.tokenizer, LLMatcher.grammar_from_lark(grammar), log_level=0)
        if matcher.is_error():
            raise GrammarRefused(_first_line(matcher.get_error()))
        return TokenConstraint(matcher, self.tokenizer.vocab_size)


class TokenConstraint:
    """Where in a grammar one turn is."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher = matcher
        self._bits: Any = np.zeros((1, (vocab_size + 31) // 32), dtype=np.int32)

    def allowed(self, size: int) -> Tensor:
        """Return which of the next tokens may come, `(size,)` booleans; a stop token may where the text is complete.

        Args:
            size: of the logits, which models pad beyond their tokenizer's vocabulary.
        """
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, self._bits)
        if self._matcher.is_error():
            raise GrammarRefused(f"the grammar cannot be followed on: {_first_line(self._matcher.get_error())}")
        bits = torch.from_numpy(np.unpackbits(self._bits[0].view(np.uint8), bitorder="little").astype(bool))
        mask = torch.zeros(size, dtype=torch.bool)
        mask[: len(bits)] = bits[:size]
        return mask

    def take(self, token: int) -> None:
        """Go on by one token."""
        self._matcher.consume_token(token)


def grammar_tokenizer_of(tokenizer: Any, size: int, stop_ids: Sequence[int]) -> GrammarTokenizer:
    """Wrap a tokenizer of transformers.

    Args:
        size: of the model's logits.

    Raises:
        UserError: llguidance is not installed.
    """
    require_llguidance()
    import llguidance.hf

    return GrammarTokenizer(llguidance.hf.from_tokenizer(tokenizer, n_vocab=size, eos_token=list(stop_ids)))


def grammar_tokenizer_of_llama(vocabulary: Any, stop_ids: Sequence[int]) -> GrammarTokenizer:
    """Wrap the vocabulary of a GGUF file, a ``llama_vocab_p``.

    Raises:
        UserError: llguidance is not installed.
    """
    require_llguidance()
    import llguidance.llamacpp

    return GrammarTokenizer(llguidance.llamacpp.lltokenizer_from_vocab(vocabulary, eos_token=list(stop_ids)))


def require_llguidance() -> None:
    """Refuse to go on without llguidance."""
    try:
        import llguidance  # noqa: F401
    except ImportError:
        raise GrammarRefused(
            "holding a model to a form needs llguidance, which is not installed; "
            "run `pip install agentforge-train[grammars]`"
        ) from None


def _quoted(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[0]
