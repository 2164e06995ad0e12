"""`data.add_tokens`: markers and words that the base's tokenizer lacks, each as one token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentforge.data.tokenizer import TAG_TOKENS, load_tokenizer
from agentforge.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def add_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str], markup: str) -> list[str]:
    """Add what the tokenizer does not have as one token, behind the ids that it has.

    Args:
        tokenizer: changed in place.
        tokens: see `data.add_tokens`.
        markup: text in which the chat template's markers are spelt. A token in it is a control token: only the template
            writes it, and it is no text when an answer is shown. Tags of calls and reasoning and all others are text.

    Returns:
        the tokens that were added.

    Raises:
        UserError: the tokenizer is one of a system's own, which has no vocabulary that could grow.
    """
    from tokenizers import AddedToken

    vocabulary = tokenizer.get_vocab()
    lacking = [token for token in tokens if token not in vocabulary]
    if not lacking:
        return []
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise UserError(f"data.add_tokens: the tokenizer {tokenizer.name_or_path} has no vocabulary that could grow")
    control = {token for token in lacking if token in markup and token not in TAG_TOKENS}
    for token in lacking:
        special = token in control
        tokenizer.add_tokens([AddedToken(token, special=special, normalized=False)], special_tokens=special)
    return lacking


def pieces_of_new_tokens(tokens: Sequence[str], path: str, revision: str | None = None) -> dict[int, list[int]]:
    """Return the id of each token that a base lacks, and the ids of the pieces into which the base splits its text.

    Args:
        tokens: see `data.add_tokens`.
        path: directory or Hub id of the base's tokenizer.
        revision: commit or tag of a Hub id.
    """
    if not tokens:
        return {}
    tokenizer = load_tokenizer(path, revision)
    pieces = {token: tokenizer.encode(token, add_special_tokens=False) for token in tokens}
    added = add_tokens(tokenizer, tokens, "")
    ids = tokenizer.get_vocab()
    return {ids[token]: pieces[token] for token in added}
