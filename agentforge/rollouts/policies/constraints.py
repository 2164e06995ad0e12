"""Grammars over tokens: at each step, which tokens still lead to a text that the grammar knows.

llguidance (https://github.com/guidance-ai/llguidance) does the work: an Earley parser over the bytes of the vocabulary.
It is an optional extra, loaded when the first grammar is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentforge.data.codec import codec_of
from agentforge.errors import UserError


class GrammarRefused(UserError):
    """A grammar that cannot be enforced: it is wrong, too large, or uses unknown features."""


class Vocabulary:
    """A tokenizer as llguidance's `TokenizerWrapper` reads it; the names are its own.

    Args:
        tokens: the bytes of every token.
        control: the texts and ids of control tokens, which no text matches.
        plain: text to ids, control tokens that it spells read as ordinary text.
    """

    bos_token_id = None

    def __init__(
        self, tokens: list[bytes], control: dict[str, int], stop_id: int, plain: Callable[[str], list[int]]
    ) -> None:
        self.tokens = tokens
        self.control = control
        self.special_token_ids = sorted(control.values())
        self.eos_token_id = stop_id
        self._plain = plain

    def __call__(self, text: str) -> list[int]:
        return self._plain(text)


class GrammarTokenizer:
    """Compiles grammars for one vocabulary. Making one takes about a second.

    llguidance's own wrappers are not used. They read a text as the tokenizer does, control tokens and all: a property
    called ``<tool_call>`` would be forced into the answer as that token, which is not the text that was asked for.

    Args:
        stop_ids: tokens that may come where the text is complete.
    """

    def __init__(self, vocabulary: Vocabulary, stop_ids: Sequence[int]) -> None:
        import llguidance

        self._control = vocabulary.control
        self.tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(vocabulary), eos_token=list(stop_ids))

    def is_token(self, text: str) -> bool:
        """Tell whether a text is a control token."""
        return text in self._control

    def symbol(self, text: str) -> str:
        """Return how a grammar writes a text that the model may know as a control token: by its id."""
        return f"<[{self._control[text]}]>" if text in self._control else json.dumps(text)

    def constraint(self, grammar: str) -> TokenConstraint:
        """Compile a grammar in llguidance's Lark dialect.

        Raises:
            GrammarRefused: it is not a grammar, a schema in it has unknown keywords, or it is too large.
        """
        from llguidance import LLMatcher

        matcher = LLMatcher(self.tokenizer, LLMatcher.grammar_from_lark(grammar), log_level=0)
        if matcher.is_error():
            raise GrammarRefused(_first_line(matcher.get_error()))
        return TokenConstraint(matcher, self.tokenizer.vocab_size)


class TokenConstraint:
    """The position of one turn in a grammar."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher = matcher
        self._bits: Any = np.zeros((1, (vocab_size + 31) // 32), dtype=np.int32)

    def allowed(self, size: int) -> Tensor:
        """Return which tokens may come next, `(size,)` booleans; a stop token may once the text is complete.

        Args:
            size: of the logits, which models pad beyond their tokenizer's vocabulary.
        """
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, self._bits)
        if self._matcher.is_error():
            raise GrammarRefused(f"the grammar cannot be followed on: {_first_line(self._matcher.get_error())}")
        # One bit a token in words of 32. What a model pads its logits with is beyond them, and never allowed.
        bits = torch.from_numpy(np.unpackbits(self._bits[0].view(np.uint8), bitorder="little").astype(bool))
        mask = torch.zeros(size, dtype=torch.bool)
        mask[: len(bits)] = bits[:size]
        return mask

    def take(self, token: int) -> None:
        """Advance by one token."""
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

    codec = codec_of(tokenizer)
    # its wrapper knows how each kind of tokenizer writes bytes
    read = llguidance.hf.from_tokenizer(tokenizer, n_vocab=size, eos_token=list(stop_ids))
    tokens = [read.decode_bytes([token]) for token in range(size)]

    def plain(text: str) -> list[int]:
        return list(codec.read_plain([text])[0])

    return GrammarTokenizer(Vocabulary(tokens, codec.ids, stop_ids[0], plain), stop_ids)


def require_llguidance() -> None:
    """Refuse to go on without llguidance."""
    try:
        import llguidance  # noqa: F401
    except ImportError:
        raise GrammarRefused(
            "holding a model to a form needs llguidance, which is not installed; "
            "run `pip install agentforge-train[grammars]`"
        ) from None


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[0]
