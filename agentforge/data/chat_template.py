"""The chat template that a model is trained and asked with, and the exact tokens and training mask it gives.

It is the base's own, a file's, or agentforge's with the base's turn markers in it. It stands in the tokenizer, so what
is trained is what transformers, llama.cpp and vLLM render afterwards.

Text is never tokenised across a turn marker, or across the border of what is trained. So the prompt's tokens are a
prefix of the conversation's, no token is half trained, and the text of a message that spells a control token
(``<|im_end|>`` in a tool's output) stays text: only the template itself can write control tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

from agentforge.data.added_tokens import add_tokens
from agentforge.data.codec import Codec, Encoding, Piece, codec_of, encode_pieces, guard_control_tokens
from agentforge.data.dialects.dialect import Dialect
from agentforge.data.dialects.probe import find_dialect
from agentforge.data.dialects.rendering import GENERATION_TAG, OURS, Template
from agentforge.data.dialects.rows import TextRow, prompt_row, text_rows
from agentforge.data.messages import BadRow, Message, escape, normalize
from agentforge.data.own_template import DOCUMENT_END, MARKERS, template_source
from agentforge.errors import UserError
from agentforge.recipe.template_names import template_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def kind_of(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return whose markers agentforge's template in a tokenizer has; None: the template is another."""
    begin = codec_of(tokenizer).begin
    return next((kind for kind in MARKERS if tokenizer.chat_template == template_source(kind, begin)), None)


def install_template(
    tokenizer: PreTrainedTokenizerBase,
    kind: str = "auto",
    options: Mapping[str, Any] | None = None,
    added: Sequence[str] = (),
) -> Template | None:
    """Store the chosen template in a tokenizer, and make the end of a turn its end-of-sequence token.

    Args:
        tokenizer: the base model's.
        kind: see `data.template`; ``auto`` keeps the tokenizer's own, or takes the first of `MARKERS` that it has.
        options: variables of the template, written into it, so that every engine renders it with them.
        added: tokens that the tokenizer gets first, see `data.add_tokens`.

    Returns:
        the template that the base brought; None if it is the chosen one, or there was none.

    Raises:
        UserError: the template does not fit the tokenizer.
    """
    own = _own_template(tokenizer)
    if added:
        add_tokens(tokenizer, added, _markup(own, kind))
    source = _chosen_source(tokenizer, own, kind)
    if options:
        # In front of agentforge's own it would hide the comment by which it is recognised, and it reads no options.
        if source.startswith(OURS):
            raise UserError(f"data.template_options: the template of data.template={kind} reads no variables")
        settings = "".join(f"{{%- set {name} = {_jinja(value)} -%}}" for name, value in sorted(options.items()))
        source = settings + source
    tokenizer.chat_template = source
    _set_end(tokenizer)
    if own is None or own == source:
        return None
    return Template(own, template_of(tokenizer).special)


def _jinja(value: Any) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else json.dumps(value, ensure_ascii=False)


def _markup(own: str | None, kind: str) -> str:
    """Return a text in which the markers of the template to be installed are spelt."""
    if kind == "auto" and own is not None:
        return own
    file = template_file(kind)
    return " ".join(t for marks in MARKERS.values() for t in marks.tokens) if file is None else file.read_text("utf-8")


def _own_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    given = tokenizer.chat_template
    if isinstance(given, dict):  # Command R and Hermes 3 have several by name
        return given.get("default")
    return given if isinstance(given, str) else None


def _chosen_source(tokenizer: PreTrainedTokenizerBase, own: str | None, kind: str) -> str:
    name = tokenizer.name_or_path or "in use"
    if kind == "auto" and own is not None:
        return own
    try:
        file = template_file(kind)
    except ValueError as error:
        raise UserError(f"data.template: {error}") from None
    if file is not None:
        return file.read_text(encoding="utf-8")
    if kind == "auto":
        kind = next((kind for kind in MARKERS if _split_marker(tokenizer, kind) is None), "")
    if not kind:
        known = " or ".join(f"{', '.join(markers.tokens)} ({kind})" for kind, markers in MARKERS.items())
        raise UserError(
            f"the tokenizer {name} has no chat template and none of these as single tokens: {known}; set data.template "
            "to the family or the Jinja file whose markers it has, or to chatml and data.add_tokens to its markers"
        )
    if (marker := _split_marker(tokenizer, kind)) is not None:
        raise UserError(
            f"data.template={kind} needs '{marker}' as one token, but the tokenizer {name} splits it into "
            f"{len(tokenizer.tokenize(marker))} pieces; set data.template to auto, or data.add_tokens to "
            f"{json.dumps([m for m in MARKERS[kind].tokens if not _is_one_token(tokenizer, m)], ensure_ascii=False)}"
        )
    return template_source(kind, codec_of(tokenizer).begin)


def _set_end(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make the token that ends a turn the end-of-sequence token, unless the template writes that one itself.

    `generate` and llama.cpp stop at eos, so eos must be what ends a turn, not what ended a document in pre-training.
    """
    source = str(tokenizer.chat_template)
    dialect = dialect_of(tokenizer)
    if "eos_token" not in GENERATION_TAG.sub("", source) and not dialect.next_role_stops:
        tokenizer.eos_token = dialect.stop
    if tokenizer.pad_token is None:
        # Not the stop token if possible: collators that mask padding by its id would mask the end of every turn as
        # well.
        tokenizer.pad_token = DOCUMENT_END if _is_one_token(tokenizer, DOCUMENT_END) else tokenizer.eos_token


def serving_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the tokenizer's template without the generation tags, which not every Jinja engine knows."""
    return GENERATION_TAG.sub("", _template(tokenizer))


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the hex SHA-256 of the template as stored."""
    return hashlib.sha256(_template(tokenizer).encode()).hexdigest()


def stop_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens at which generation ends: those that end a turn, and the document's end if it is another."""
    stops = []
    if isinstance(tokenizer.chat_template, str):
        ids = codec_of(tokenizer).ids
        stops += [ids[stop] for stop in dialect_of(tokenizer).stops if stop in ids]
    stops.append(int(tokenizer.eos_token_id))
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
        BadRow: the messages are no conversation, or the template refuses them.
    """
    template, dialect = template_of(tokenizer), dialect_of(tokenizer)
    turns = _escaped(template, normalize(messages))
    return template.render(dialect.shape(turns), tools, add_generation_prompt)


def encode(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> Encoding:
    """Return a conversation's tokens and training mask as one row.

    Raises:
        BadRow: the messages are no conversation, nothing in them is trained, or the template refuses them.
        UserError: the template writes earlier turns differently when others follow, so one row cannot hold them all.
    """
    rows = encode_rows_of(tokenizer, messages, tools)
    if len(rows) > 1:
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} changes earlier turns when others follow, so this "
            "conversation is no single row; set data.template to chatml or another one that keeps them"
        )
    return rows[0]


def encode_rows_of(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> list[Encoding]:
    """Return the rows that a conversation becomes: one, or more where the template rewrites earlier turns.

    Raises:
        BadRow: see `encode`.
    """
    return encode_pieces(tokenizer, list(_row_pieces(_rules_of(tokenizer), normalize(messages), tools)))


def encode_batch(
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]] | None]],
    normal: bool = False,
) -> list[list[Encoding] | BadRow]:
    """Encode many (messages, tools) in one call of the tokenizer.

    Args:
        normal: the messages come from `normalize`, as those that `prepare` has read do.

    Returns:
        for each conversation its rows (see `encode_rows_of`), or why it has none.
    """
    made: list[list[list[Piece]] | BadRow] = []
    rules = _rules_of(tokenizer)
    for messages, tools in rows:
        try:
            turns = cast(Sequence[Message], messages) if normal else normalize(messages)
            made.append(list(_row_pieces(rules, turns, tools)))
        except BadRow as error:
            made.append(error)
    encodings = iter(encode_pieces(tokenizer, [row for one in made if not isinstance(one, BadRow) for row in one]))
    return [one if isinstance(one, BadRow) else [next(encodings) for _ in one] for one in made]


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> list[int]:
    """Return the tokens after which the assistant's next turn is generated: a prefix of what `encode` gives for it."""
    rules = _rules_of(tokenizer)
    turns, offered, guard = _guarded_row(rules, normalize(messages), tools)
    row = prompt_row(rules.template, rules.dialect, turns, offered)
    return encode_pieces(tokenizer, [list(_pieces(rules.codec, row, guard))])[0].input_ids


def encode_documents(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Encoding]:
    """Return plain texts as tokens, all trained, each closed with the document's end (the turn's, if there is none).

    A tokenizer that begins a text with a token of its own begins each document with it.
    """
    end = DOCUMENT_END if _is_one_token(tokenizer, DOCUMENT_END) else str(tokenizer.eos_token)
    begin = [(mark, True, True)] if (mark := codec_of(tokenizer).begin) else []
    return encode_pieces(tokenizer, [[*begin, (text, True, False), (end, True, True)] for text in texts])


@dataclass(frozen=True)
class _Rules:
    """What a tokenizer is asked for once a batch: it builds its lists of tokens anew each time, of 256 in Llama 3."""

    template: Template
    dialect: Dialect
    codec: Codec


def _rules_of(tokenizer: PreTrainedTokenizerBase) -> _Rules:
    return _Rules(template_of(tokenizer), dialect_of(tokenizer), codec_of(tokenizer))


def _escaped(template: Template, turns: Sequence[Message]) -> list[Message]:
    """Return normal messages; quoted tags are escaped for our own template, which is the only one that reads it."""
    return escape(turns) if template.is_ours else list(turns)


def _guarded_row(
    rules: _Rules, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None
) -> tuple[list[Message], Sequence[Mapping[str, Any]] | None, str]:
    # `<|im_end|>` inside a tool's output must not become the token. It is rendered as `<G|im_end|>`, G a noncharacter,
    # so that `_pieces` finds only what the template wrote itself. Then G is taken out, and the text stays text.
    (turns, offered), guard = guard_control_tokens([_escaped(rules.template, messages), tools], rules.codec.control)
    return turns, offered, guard


def _row_pieces(
    rules: _Rules, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None
) -> Iterator[list[Piece]]:
    turns, offered, guard = _guarded_row(rules, messages, tools)
    if not any(turn["role"] == "assistant" for turn in turns):
        raise BadRow("no assistant turn", "the conversation has no assistant turn, so nothing in it would be trained")
    for row in text_rows(rules.template, rules.dialect, turns, offered):
        yield list(_pieces(rules.codec, row, guard))


def _pieces(codec: Codec, row: TextRow, guard: str) -> Iterator[Piece]:
    # A text begins with the begin token exactly once: most templates write it, those that do not leave it to the
    # tokenizer, as llama.cpp does.
    if codec.begin and not row.text.startswith(codec.begin):
        yield codec.begin, False, True
    # Cutting at the borders of turns as well keeps BPE from merging the last character of a prompt with the first of an
    # answer.
    for index, text in enumerate(row.stretches()):
        for part in codec.control.split(text):
            if part:
                yield (part.replace(guard, "") if guard else part), row.is_trained(index), part in codec.ids


_dialects: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[Template, Dialect]] = WeakKeyDictionary()


def template_of(tokenizer: PreTrainedTokenizerBase) -> Template:
    """Return the tokenizer's chat template with the special tokens that it may name."""
    named = {name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    return Template(_template(tokenizer), tuple(sorted(named.items())))


def dialect_of(tokenizer: PreTrainedTokenizerBase) -> Dialect:
    """Return what the tokenizer's chat template does, found out once.

    Raises:
        UserError: it has none, or one that writes no conversation.
    """
    template = template_of(tokenizer)
    known = _dialects.get(tokenizer)
    if known is None or known[0] != template:
        known = template, find_dialect(template, codec_of(tokenizer).control, str(tokenizer.eos_token or ""))
        _dialects[tokenizer] = known
    return known[1]


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
