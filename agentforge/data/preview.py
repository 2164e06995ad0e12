"""A few rows as the model will see them: each token, and whether it is trained, only read, or cut off."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from agentforge.artifacts import MANIFEST, write_text
from agentforge.data.added_tokens import add_tokens
from agentforge.data.chat_template import install_template
from agentforge.data.cleaning.ingest import NOWHERE, Ingestor, Raws
from agentforge.data.codec import Encoding
from agentforge.data.dialects.compare import say_differences
from agentforge.data.messages import BadRow
from agentforge.data.prepare_table import describe_left_out
from agentforge.data.row_text import Row, tokenizer_text
from agentforge.data.sources.open_sources import OpenSource, open_sources
from agentforge.data.tokenise import Overflow, calls_tools, encode_rows, kept_spans
from agentforge.data.tokenizer import load_tokenizer, model_tokenizer, train_tokenizer
from agentforge.data.tools import load_tools
from agentforge.errors import CheckRefused, UserError
from agentforge.recipe.methods import METHODS
from agentforge.recipe.schema import MinHash, Recipe, TokenizerTraining

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

State = Literal["trained", "read", "cut"]
LOOKED_AT = 2000
"""How many raw rows of a source are tried before giving up."""

MEANINGS: dict[State, str] = {
    "trained": "trained: gives a loss",
    "read": "read: context only",
    "cut": "beyond data.max_length",
}
TERMINAL_STYLES: dict[State, str] = {"trained": "green", "read": "default", "cut": "red strike"}
BRACKETS: dict[State, tuple[str, str]] = {"trained": ("⟦", "⟧"), "read": ("", ""), "cut": ("⟨", "⟩")}
"""Around what is trained and what is cut off, where there are no colours."""
LONGEST_CHARACTER = 4  # bytes, in UTF-8
LONG_RUN = 600
"""Tokens of one state that a terminal shows; of more, the first and the last."""
NOT_SEEN = "in the rows looked at, but not seen by the model"
CONTROL_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {127: 0x2421}
"""Terminals act on these characters, so their Unicode pictures are shown instead."""


@dataclass(frozen=True)
class PreviewToken:
    """One token: its id, the text that it completes, what becomes of it, and whether it is an added token."""

    id: int
    text: str
    state: State
    control: bool


@dataclass(frozen=True)
class PreviewRow:
    """One row.

    Attributes:
        source: name of its source.
        number: position among the source's accepted rows, from 1.
        tool_calls: the calls in it, as JSON.
        note: what happens to it because it is too long, or "".
        left_out: what of its source's rows, up to this one, the model does not see: number by name.
    """

    source: str
    number: int
    tokens: list[PreviewToken]
    tool_calls: list[str] = field(default_factory=list)
    note: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> dict[State, int]:
        """Number of tokens in each state."""
        return {state: sum(token.state == state for token in self.tokens) for state in MEANINGS}

    @property
    def title(self) -> str:
        """Source, number and token counts in one line."""
        counts = ", ".join(f"{count} {state}" for state, count in self.counts.items())
        calls = f", {len(self.tool_calls)} tool calls" if self.tool_calls else ""
        return f"{self.source}, row {self.number}: {len(self.tokens)} tokens ({counts}){calls}"


def preview_rows(recipe: Recipe, rows_per_source: int = 1) -> list[PreviewRow]:
    """Return the first rows of each source of `data.mix`, cleaned, filtered and tokenised as `prepare` does it.

    Duplicates and decontamination are left out: they need the whole mix.

    Raises:
        UserError: the recipe, a data set or the tokenizer is wrong.
        CheckRefused: the first rows of a source are all rejected.
    """
    data = recipe.data
    if recipe.train.preferences:
        # Shown as what is chosen or liked.
        data = data.model_copy(update={"mix": recipe.train.preferences, "curriculum": []})
    if not data.mix:
        raise UserError("data.mix is empty: name at least one data set (`agentforge download --list`) or file")
    sources, _ = open_sources(data)
    tools = load_tools(recipe.data.tools).schemas if recipe.data.tools else None
    documents = METHODS[recipe.train.method].reads == "documents"
    ingestor = Ingestor(sources, MinHash(enabled=False), None, documents, tools)
    found = [_accepted(ingestor, index, source, rows_per_source) for index, source in enumerate(sources)]
    tokenizer = _open_tokenizer(recipe, [row for rows, _ in found for row in rows])
    return [
        replace(shown, left_out=left_out)
        for source, (rows, left_out) in zip(sources, found, strict=True)
        for number, row in enumerate(rows, 1)
        for shown in preview_row(tokenizer, recipe, row, source.name, number)
    ]


def preview_row(
    tokenizer: PreTrainedTokenizerBase, recipe: Recipe, row: Row, source: str, number: int
) -> list[PreviewRow]:
    """Return one clean row (messages or text) as the model sees it; several, where the template cuts it.

    Raises:
        CheckRefused: the chat template refuses the row.
    """
    made = encode_rows(tokenizer, [row])[0]
    if isinstance(made, BadRow):
        raise CheckRefused(f"{source}, row {number}: {made}")
    return [_preview(tokenizer, recipe, row, encoding, source, number) for encoding in made]


def _preview(
    tokenizer: PreTrainedTokenizerBase, recipe: Recipe, row: Row, encoding: Encoding, source: str, number: int
) -> PreviewRow:
    limit = recipe.data.max_length
    overflow: Overflow = "split" if "text" in row else recipe.data.overflow
    added = tokenizer.added_tokens_decoder
    mask = np.array(encoding.assistant_masks, dtype=np.int8)
    spans = kept_spans(mask, limit, overflow, calls_tools(row))
    kept = {position for start, end in spans for position in range(start, end)}
    tokens = []
    for position, (index, text) in enumerate(token_texts(tokenizer, encoding.input_ids)):
        state: State = "trained" if encoding.assistant_masks[position] else "read"
        # With "split" what lies beyond the limit is the next row.
        if position not in kept:
            state = "cut"
        tokens.append(PreviewToken(index, text, state, index in added))
    calls = [
        json.dumps(call["function"], ensure_ascii=False)
        for message in row.get("messages", ())
        for call in message.get("tool_calls", ())
    ]
    note = _note(len(tokens), limit, overflow, len(spans), len(tokens) - len(kept))
    if not any(token.state == "trained" for token in tokens):
        note = f"{note}; no trained token is left, so the row is dropped".removeprefix("; ")
    return PreviewRow(source, number, tokens, calls, note)


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Yield each token with its text; a character of several tokens stands with the last of them."""
    from tokenizers.decoders import DecodeStream

    # One byte of a longer character decodes to U+FFFD; such bytes are held back until the character is whole.
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        stream = DecodeStream(skip_special_tokens=False)
        for index in ids:
            yield index, stream.step(backend, index) or ""
        return
    held: list[int] = []  # a system's own tokenizer is written in Python and has no stream
    for index in ids:
        held.append(index)
        text = str(tokenizer.decode(held))
        whole = not text.endswith("\ufffd") or len(held) == LONGEST_CHARACTER
        yield index, text if whole else ""
        if whole:
            held = []


def render_terminal(rows: Sequence[PreviewRow], coloured: bool = True) -> RenderableType:
    """Return the rows as something that a rich console prints.

    Args:
        coloured: it shows colours; else brackets stand around what is trained and what is cut.
    """
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    marks = {state: ("", "") for state in MEANINGS} if coloured else BRACKETS
    legend = Text("  ").join(
        Text(f"{marks[state][0]}{meaning}{marks[state][1]}", TERMINAL_STYLES[state])
        for state, meaning in MEANINGS.items()
    )
    panels = []
    for row in rows:
        text = Text()
        for state, run in groupby(row.tokens, key=lambda token: token.state):
            text.append(marks[state][0])
            _append(text, list(run), TERMINAL_STYLES[state])
            text.append(marks[state][1])
        if row.left_out:
            text.append(f"\n{NOT_SEEN}: {describe_left_out(row.left_out)}", "yellow")
        panels.append(Panel(text, title=Text(row.title), subtitle=Text(row.note), title_align="left"))
    return Group(legend, *panels)


def _append(text: Text, run: Sequence[PreviewToken], style: str) -> None:
    """Append tokens of one state; of many the middle is left out, and said how many that are."""
    cut = len(run) - LONG_RUN if len(run) > LONG_RUN else 0
    head = (len(run) - cut) // 2 if cut else len(run)
    for control, tokens in groupby(run[:head], key=lambda token: token.control):
        shown = "".join(token.text for token in tokens).translate(CONTROL_PICTURES)
        text.append(shown, f"bold {style}" if control else style)
    if cut:
        text.append(f" ... {cut:,} tokens more ... ", "dim")
        _append(text, run[head + cut :], style)


def write_html(rows: Sequence[PreviewRow], path: Path | str) -> None:
    """Write the rows as one page without scripts or outside references; the pointer over a token shows its id."""
    legend = " ".join(f'<span class="{state}">{escape(meaning)}</span>' for state, meaning in MEANINGS.items())
    page = PAGE.format(legend=legend, rows="\n".join(_html_row(row) for row in rows))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Rows as the model sees them</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
h2 {{ font-size: 1rem; margin: 2rem 0 .3rem }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; background: #f7f7f5; padding: .8rem; border-radius: 6px }}
span:hover {{ outline: 1px solid #555 }}
.trained {{ background: #c9efcf }}
.read {{ background: #ececea }}
.cut {{ background: #f6cdcd; text-decoration: line-through }}
.control {{ font-weight: 700 }}
</style>
<h1>Rows as the model sees them</h1>
<p>{legend}</p>
{rows}
</html>
"""


def _html_row(row: PreviewRow) -> str:
    spans = "".join(
        f'<span class="{token.state}{" control" if token.control else ""}" title="{token.id}">'
        f"{escape(token.text.translate(CONTROL_PICTURES))}</span>"
        for token in row.tokens
    )
    calls = "".join(f"<li><code>{escape(call.translate(CONTROL_PICTURES))}</code></li>" for call in row.tool_calls)
    note = f"<p>{escape(row.note)}</p>" if row.note else ""
    note += f"<p>{NOT_SEEN}: {escape(describe_left_out(row.left_out))}</p>" if row.left_out else ""
    listed = f"<ol>{calls}</ol>" if calls else ""
    return f"<section><h2>{escape(row.title)}</h2>{note}<pre>{spans}</pre>{listed}</section>"


def _note(length: int, limit: int, overflow: str, rows: int, lost: int) -> str:
    if length <= limit:
        return ""
    does = {
        "truncate": f"its last {lost} tokens are cut off",
        "split": f"it becomes {rows} rows" + (f", without {lost} tokens that fit in none" if lost else ""),
        "drop": "the whole row is dropped",
    }
    return f"longer than data.max_length={limit}: {does[overflow]}"


def _accepted(ingestor: Ingestor, index: int, source: OpenSource, wanted: int) -> tuple[list[Row], Counter[str]]:
    """Return the first rows that pass a source's adapter and filters, and what is left out of the rows looked at."""
    rows: list[Row] = []
    reasons: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    raws = islice(source.raw_rows(source.new_counts()), LOOKED_AT)
    # Raw rows are read a few at a time, so that even a huge source is shown after its first rows.
    while len(rows) < wanted and (chunk := list(islice(raws, wanted))):
        ingested = ingestor(Raws(index, chunk, [NOWHERE] * len(chunk)))
        rows += [json.loads(line) for line in ingested.lines.splitlines()]
        reasons += ingested.rejected
        left_out += ingested.left_out
    if not rows:
        listed = ", ".join(f"{reason}: {count}" for reason, count in reasons.items()) or "it has none"
        raise CheckRefused(f"{source.name}: no row can be shown ({listed}); look at its adapter, columns and filters")
    return rows[:wanted], left_out


def _open_tokenizer(recipe: Recipe, rows: Sequence[Row]) -> PreTrainedTokenizerBase:
    """Return the prepared tokenizer if there is one, else the recipe's; one still to be trained is stood in for."""
    wanted = recipe.model.tokenizer
    prepared = recipe.artifact("data")
    if isinstance(wanted, TokenizerTraining):
        if (prepared / MANIFEST).is_file():
            # A tokenizer trained on the rows shown would give other tokens than the run has.
            return load_tokenizer(prepared / "tokenizer")
        log.warning(
            "the tokenizer is not trained yet (run `agentforge prepare`); this preview uses one trained on these rows"
        )
        tokenizer: PreTrainedTokenizerBase = train_tokenizer(map(tokenizer_text, rows), wanted.vocab_size)
    else:
        tokenizer = model_tokenizer(recipe.model)
    if METHODS[recipe.train.method].reads != "documents":
        data = recipe.data
        own = install_template(tokenizer, data.template, data.template_options, data.add_tokens)
        say_differences(own, tokenizer)
    else:
        add_tokens(tokenizer, recipe.data.add_tokens, "")
    return tokenizer
