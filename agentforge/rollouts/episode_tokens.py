"""A finished conversation as tokens: the prompt before the first turn, what follows, and where the turns are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentforge.data.chat_template import encode
from agentforge.rollouts.policies.base import Message, ToolSchema

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class EpisodeTokens:
    """An episode's tokens for one tokenizer.

    Attributes:
        prompt_ids: before the first turn.
        token_ids: everything after it, up to the end of the last turn.
        mask: 1 at the model's tokens.
        spans: start and end of each turn in ``token_ids``.
    """

    prompt_ids: list[int]
    token_ids: list[int]
    mask: list[int]
    spans: list[tuple[int, int]]


def tokenise_conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Sequence[ToolSchema]
) -> EpisodeTokens | None:
    """Tokenise a conversation as `prepare` would; None where the assistant says nothing in it.

    `encode` gives the whole conversation with its mask. What stands before the first token of the mask is the prompt;
    what the template writes behind the last turn belongs to nobody. For the mask 0 0 1 1 0 1 0 the prompt has two
    tokens, four follow, and the turns are at 0 to 2 and 3 to 4 of those.
    """
    row = encode(tokenizer, list(messages), list(tools) or None)
    if 1 not in row.assistant_masks:
        return None
    first = row.assistant_masks.index(1)
    mask = row.assistant_masks[first:]
    starts = [i for i, m in enumerate(mask) if m and (i == 0 or not mask[i - 1])]
    ends = [i + 1 for i, m in enumerate(mask) if m and not any(mask[i + 1 : i + 2])]
    length = ends[-1]
    spans = list(zip(starts, ends, strict=True))
    return EpisodeTokens(row.input_ids[:first], row.input_ids[first : first + length], mask[:length], spans)
