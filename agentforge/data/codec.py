"""How a tokenizer reads texts: control tokens where the template wrote them, and everything else as plain text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from agentforge.data.messages import BadRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TAG = re.compile(r"<\S+>|\[\S+\]")

NONCHARACTERS = [*range(0xFDD0, 0xFDF0), *(plane << 16 | last for plane in range(17) for last in (0xFFFE, 0xFFFF))]
GUARDS = "".join(map(chr, NONCHARACTERS))
"""All that Unicode has: real text does not contain them, and if some does, the next one is used."""

Piece = tuple[str, bool, bool]
"""A stretch of text, whether it is trained, and whether it is a control token."""


@dataclass(frozen=True)
class Encoding:
    """A row as the model sees it: token ids, and 1 for each token that is trained."""

    input_ids: list[int]
    assistant_masks: list[int]


@dataclass(frozen=True)
class Codec:
    """A tokenizer's control tokens, and how it reads texts when it does not know them.

    Control tokens are the special ones and the tags (``<tool_call>`` is not special, so that decoding keeps it). Other
    added tokens (runs of spaces, words of a trade) are ordinary text.
    """

    control: re.Pattern[str]
    ids: dict[str, int]
    read_plain: Callable[[Sequence[str]], list[list[int]]]
    begin: str
    """What the tokenizer puts before a text by itself; empty if it does not."""


_codecs: WeakKeyDictionary[PreTrainedTokenizerBase, Codec] = WeakKeyDictionary()


def codec_of(tokenizer: PreTrainedTokenizerBase) -> Codec:
    """Return a tokenizer's codec, made once."""
    codec = _codecs.get(tokenizer)
    added = tokenizer.added_tokens_decoder
    control = {token.content: index for index, token in added.items() if token.special or TAG.fullmatch(token.content)}
    # Tokens may have been added since the codec was made.
    if codec is None or codec.ids != control:
        plain = _plain_reader(tokenizer, control)
        codec = _codecs[tokenizer] = Codec(any_of(control), control, plain, _begin(tokenizer))
    return codec


def begins_texts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether the tokenizer puts its begin token before a text."""
    return bool(codec_of(tokenizer).begin)


def encode_pieces(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[Piece]]) -> list[Encoding]:
    codec = codec_of(tokenizer)
    # Role names and the tools block stand in every row: each text is tokenised once a batch.
    texts = list(dict.fromkeys(text for pieces in rows for text, _, is_control in pieces if not is_control))
    known = dict(zip(texts, codec.read_plain(texts), strict=True))
    encodings = []
    for pieces in rows:
        row = Encoding([], [])
        for text, trained, is_control in pieces:
            ids = [codec.ids[text]] if is_control else known[text]
            row.input_ids.extend(ids)
            row.assistant_masks.extend([int(trained)] * len(ids))
        encodings.append(row)
    return encodings


def guard_control_tokens(value: Any, control: re.Pattern[str]) -> tuple[Any, str]:
    """Break every control token that the strings of a JSON value spell, so that rendering writes none of them.

    Returns:
        the value, and the character that was put into the tokens; empty if there were none.

    Raises:
        BadRow: the row already holds every character that could be put there.
    """
    # One search of the whole row as JSON: almost no row spells a control token, and those rows are returned untouched.
    spoken = json.dumps(value, ensure_ascii=False)
    if not control.search(spoken):
        return value, ""
    guard = next((character for character in GUARDS if character not in spoken), None)
    if guard is None:
        raise BadRow(
            "holds every noncharacter", "the row spells a control token and holds all 66 noncharacters of Unicode"
        )
    return _guarded(value, control, guard), guard


def _guarded(value: Any, control: re.Pattern[str], guard: str) -> Any:
    """Return the value with a guard character inside every control token that its strings spell."""
    if isinstance(value, str):
        return control.sub(lambda found: found.group()[0] + guard + found.group()[1:], value)
    if isinstance(value, Mapping):
        return {_guarded(key, control, guard): _guarded(item, control, guard) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_guarded(item, control, guard) for item in value]
    return value


def _begin(tokenizer: PreTrainedTokenizerBase) -> str:
    if tokenizer.bos_token_id is None:
        return ""
    return str(tokenizer.bos_token) if tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id] else ""


def any_of(words: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that finds the longest word, with one group: its `split` gives the words too."""
    return re.compile("(" + "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)) + ")")


def _plain_reader(
    tokenizer: PreTrainedTokenizerBase, control: Container[str]
) -> Callable[[Sequence[str]], list[list[int]]]:
    """Return what gives the ids of texts, the control tokens in them read as ordinary text."""
    from tokenizers import Tokenizer

    if getattr(tokenizer, "backend_tokenizer", None) is None:  # one of a system's own, written in Python
        return lambda texts: [
            tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) for text in texts
        ]
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    # `encode_special_tokens` makes text only of tokens that are marked special, so the tags are marked in this copy.
    for token in description["added_tokens"]:
        token["special"] = token["content"] in control
    # A saved tokenizer may bring a truncation of its own, which would silently cut long rows.
    description["truncation"] = description["padding"] = None
    plain = Tokenizer.from_str(json.dumps(description))
    plain.encode_special_tokens = True

    def read(texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in plain.encode_batch_fast(list(texts), add_special_tokens=False)]

    return read
