"""One chat template for every base model, and the exact tokens and training mask it gives.

The template is written into the tokenizer with the base model's own turn markers in it, so what is trained is what
transformers, llama.cpp and vLLM render afterwards.

Text is never tokenised across a turn marker, or across the border of what is trained. So the prompt's tokens are a
prefix of the conversation's, no token is half trained, and the text of a message that spells a control token
(``<|im_end|>`` in a tool's output) stays text: only the template itself can write control tokens.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from agentforge.data.messages import BadRow, Message, escape, normalize
from agentforge.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE = Path(__file__).with_name("templates") / "hermes.jinja"
GENERATION_TAG = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
TAG = re.compile(r"<\S+>|\[\S+\]")
GUARDS = "\ufdd0\ufdd1\ufdd2\ufdd3"
"""Unicode noncharacters: real text does not contain them, and if some does, the next one is used."""


@dataclass(frozen=True)
class Markers:
    """What a base model was trained to see around turns.

    Attributes:
        tokens: those that must each be a single token.
        texts: the names of hermes.jinja and what stands for them; ASSISTANT_STOP ends an assistant's turn.
    """

    tokens: tuple[str, ...]
    texts: Mapping[str, str]


MARKERS = {
    "chatml": Markers(
        tokens=("<|im_start|>", "<|im_end|>"),
        texts={
            "CONVERSATION_BEGIN": "",
            "SYSTEM_BEGIN": "<|im_start|>system\n",
            "SYSTEM_END": "<|im_end|>\n",
            "USER_BEGIN": "<|im_start|>user\n",
            "USER_END": "<|im_end|>\n",
            "ASSISTANT_BEGIN": "<|im_start|>assistant\n",
            "ASSISTANT_STOP": "<|im_end|>",
            "ASSISTANT_END": "\n",
        },
    ),
    "deepseek_r1": Markers(
        tokens=("<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
        texts={
            "CONVERSATION_BEGIN": "<｜begin▁of▁sentence｜>",
            "SYSTEM_BEGIN": "",
            "SYSTEM_END": "",
            "USER_BEGIN": "<｜User｜>",
            "USER_END": "",
            "ASSISTANT_BEGIN": "<｜Assistant｜>",
            "ASSISTANT_STOP": "<｜end▁of▁sentence｜>",
            "ASSISTANT_END": "",
        },
    ),
}
DOCUMENT_END = "<|endoftext|>"


@dataclass(frozen=True)
class Encoding:
    """A row as the model sees it: token ids, and 1 for each token that is trained."""

    input_ids: list[int]
    assistant_masks: list[int]


def template_source(kind: str) -> str:
    """Return the template with the markers of ``kind`` in it."""
    source = TEMPLATE.read_text(encoding="utf-8").rstrip("\n")
    # A JSON string is also a Jinja string. All names are replaced in one pass, so no marker is itself searched for
    # names.
    literals = {name: json.dumps(text, ensure_ascii=False) for name, text in MARKERS[kind].texts.items()}
    return re.sub("|".join(literals), lambda found: literals[found.group()], source)


def install_template(tokenizer: PreTrainedTokenizerBase, kind: str = "auto") -> None:
    """Store the template in a tokenizer and make the end of a turn its end-of-sequence token.

    Args:
        tokenizer: the base model's.
        kind: ``chatml``, ``deepseek_r1``, or ``auto`` for the first whose markers the tokenizer has.

    Raises:
        UserError: a marker is not one token of this tokenizer.
    """
    name = tokenizer.name_or_path or "in use"
    if kind == "auto":
        kind = next((kind for kind in MARKERS if _split_marker(tokenizer, kind) is None), "")
    if not kind:
        known = " or ".join(f"{', '.join(markers.tokens)} ({kind})" for kind, markers in MARKERS.items())
        raise UserError(f"the tokenizer {name} has none of these as single tokens: {known}; use another base model")
    if (marker := _split_marker(tokenizer, kind)) is not None:
        raise UserError(
            f"data.template={kind} needs '{marker}' as one token, but the tokenizer {name} splits it into "
            f"{len(tokenizer.tokenize(marker))} pieces; set data.template to auto"
        )
    tokenizer.chat_template = template_source(kind)
    # `generate` and llama.cpp stop at eos, so eos must be what ends a turn, not what ended a document in pre-training.
    tokenizer.eos_token = stop = MARKERS[kind].texts["ASSISTANT_STOP"]
    if tokenizer.pad_token is None:
        # Not the stop token if possible: collators that mask padding by its id would mask the end of every turn as
        # well.
        tokenizer.pad_token = DOCUMENT_END if _is_one_token(tokenizer, DOCUMENT_END) else stop


def serving_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the tokenizer's template without the generation tags, which not every Jinja engine knows."""
    return GENERATION_TAG.sub("", _template(tokenizer))


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the hex SHA-256 of the template as stored."""
    return hashlib.sha256(_template(tokenizer).encode()).hexdigest()


def stop_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens at which generation ends: the turn's end, and the document's if it is another."""
    stops = [int(tokenizer.eos_token_id)]
    # A base model ends a text this way; without this stop it would go on with an unrelated document.
    if _is_one_token(tokenizer, DOCUMENT_END):
        stops.append(tokenizer.encode(DOCUMENT_END, add_special_tokens=False)[0])
    return list(dict.fromkeys(stops))


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = False,
) -> str:
    """Return the conversation as text.

    Raises:
        BadRow: the messages are no conversation.
    """
    return _render(tokenizer, escape(normalize(messages)), tools, add_generation_prompt)[0]


def encode(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> Encoding:
    """Return a conversation's tokens and training mask.

    Raises:
        BadRow: the messages are no conversation, or nothing in them is trained.
        UserError: the tokenizer's template has no generation marks.
    """
    return encode_batch(tokenizer, [(messages, tools)])[0]


def encode_batch(
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]] | None]],
) -> list[Encoding]:
    """Encode many (messages, tools) in one call of the tokenizer; see `encode`."""
    if not GENERATION_TAG.search(_template(tokenizer)):
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} has no {{% generation %}} tags, so it does not say what "
            "the assistant must learn; set data.template to auto"
        )
    pieces = [list(_pieces(tokenizer, messages, tools)) for messages, tools in rows]
    return _encode_pieces(tokenizer, pieces)


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> list[int]:
    """Return the tokens after which the assistant's next turn is generated: a prefix of what `encode` gives for it."""
    pieces = list(_pieces(tokenizer, messages, tools, add_generation_prompt=True))
    return _encode_pieces(tokenizer, [pieces])[0].input_ids


def encode_documents(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Encoding]:
    """Return plain texts as tokens, all trained, each closed with the document's end (the turn's, if there is none).

    A tokenizer that begins a text with a token of its own begins each document with it.
    """
    end = DOCUMENT_END if _is_one_token(tokenizer, DOCUMENT_END) else str(tokenizer.eos_token)
    begin = [(str(tokenizer.bos_token), True, True)] if begins_texts(tokenizer) else []
    return _encode_pieces(tokenizer, [[*begin, (text, True, False), (end, True, True)] for text in texts])


def begins_texts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether the tokenizer puts its begin token before a text."""
    if tokenizer.bos_token_id is None:
        return False
    return bool(tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id])


Piece = tuple[str, bool, bool]
"""A stretch of text, whether it is trained, and whether it is a control token."""


def _pieces(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    add_generation_prompt: bool = False,
) -> Iterator[Piece]:
    codec = codec_of(tokenizer)
    turns = escape(normalize(messages))
    if not add_generation_prompt and not any(turn["role"] == "assistant" for turn in turns):
        raise BadRow("no assistant turn", "the conversation has no assistant turn, so nothing in it would be trained")
    # `<|im_end|>` inside a tool's output must not become the token. It is rendered as `<G|im_end|>`, G a noncharacter,
    # so that the split below finds only what the template wrote itself. Then G is taken out, and the text stays text.
    (turns, tools), guard = guard_control_tokens([turns, tools], codec.control)
    text, trained = _render(tokenizer, turns, tools, add_generation_prompt)
    # Every second stretch is trained: 0 .. start | start .. end | end .. start. Cutting at these borders as well keeps
    # BPE from merging the last character of a prompt with the first of an answer.
    borders = [0, *(border for span in trained for border in span), len(text)]
    for index, (start, end) in enumerate(pairwise(borders)):
        for part in codec.control.split(text[start:end]):
            if part:
                yield (part.replace(guard, "") if guard else part), index % 2 == 1, part in codec.ids


def guard_control_tokens(value: Any, control: re.Pattern[str]) -> tuple[Any, str]:
    """Break every control token that the strings of a JSON value spell, so that rendering writes none of them.

    Returns:
        the value, and the character that was put into the tokens; empty if there were none.
    """
    # One search of the whole row as JSON: almost no row spells a control token, and those rows are returned untouched.
    spoken = json.dumps(value, ensure_ascii=False)
    if not control.search(spoken):
        return value, ""
    guard = next(character for character in GUARDS if character not in spoken)
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


def _encode_pieces(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[Piece]]) -> list[Encoding]:
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


def _render(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None,
    add_generation_prompt: bool,
) -> tuple[str, list[tuple[int, int]]]:
    """Return the text and the (start, end) of what is trained in it, in characters."""
    from transformers.utils.chat_template_utils import render_jinja_template

    render_all: Any = render_jinja_template  # its annotation says str and omits the spans
    rendered, spans = render_all(
        [list(turns)],
        tools=list(tools) if tools else None,
        chat_template=_template(tokenizer),
        return_assistant_tokens_mask=True,
        add_generation_prompt=add_generation_prompt,
    )
    return rendered[0], spans[0]


@dataclass(frozen=True)
class Codec:
    """A tokenizer's control tokens, and how it reads texts when it does not know them.

    Control tokens are the special ones and the tags (``<tool_call>`` is not special, so that decoding keeps it). Other
    added tokens (runs of spaces, words of a trade) are ordinary text.
    """

    control: re.Pattern[str]
    ids: dict[str, int]
    read_plain: Callable[[Sequence[str]], list[list[int]]]


_codecs: WeakKeyDictionary[PreTrainedTokenizerBase, Codec] = WeakKeyDictionary()


def codec_of(tokenizer: PreTrainedTokenizerBase) -> Codec:
    """Return a tokenizer's codec, made once."""
    codec = _codecs.get(tokenizer)
    added = tokenizer.added_tokens_decoder
    control = {token.content: index for index, token in added.items() if token.special or TAG.fullmatch(token.content)}
    # Tokens may have been added since the codec was made.
    if codec is None or codec.ids != control:
        codec = _codecs[tokenizer] = Codec(any_of(control), control, _plain_reader(tokenizer, control))
    return codec


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


def _template(tokenizer: PreTrainedTokenizerBase) -> str:
    template = tokenizer.chat_template
    if not isinstance(template, str):
        raise UserError(f"the tokenizer {tokenizer.name_or_path} has no chat template; set data.template to auto")
    return template


def _is_one_token(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    return len(tokenizer.encode(text, add_special_tokens=False)) == 1


def _split_marker(tokenizer: PreTrainedTokenizerBase, kind: str) -> str | None:
    """Return the first marker of ``kind`` that the tokenizer splits, None if it has them all."""
    return next((marker for marker in MARKERS[kind].tokens if not _is_one_token(tokenizer, marker)), None)
