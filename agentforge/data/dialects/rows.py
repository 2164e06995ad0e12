"""From a conversation to the texts that are trained on: each turn behind the very prompt that it would answer.

A template may write a turn differently once others follow: many drop the reasoning of earlier answers. What was
rendered at the time is what the model said and what it saw, so a turn is trained as it stands when it is the last one.
Where the next prompt still begins with that text, both turns are in one row; where it does not, a new row begins, in
which the earlier turns stand as the template now writes them, and only the later are trained.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from json import dumps
from typing import Any

from agentforge.data.dialects.dialect import Dialect
from agentforge.data.dialects.rendering import Template
from agentforge.data.messages import BadRow, Message, trained_spans

Tools = Sequence[Mapping[str, Any]]
_THINK_TAG = re.compile(r"think[>\]]", re.IGNORECASE)


@dataclass
class TextRow:
    """A text, and where the assistant's turns stand in it.

    Attributes:
        spans: (start, end) of each turn, in characters.
        trained: whether each of them is trained; all are, if it is empty.
    """

    text: str
    spans: list[tuple[int, int]] = field(default_factory=list)
    trained: list[bool] = field(default_factory=list)

    def is_trained(self, stretch: int) -> bool:
        """Tell whether the stretch of this number is trained."""
        return stretch % 2 == 1 and (not self.trained or self.trained[stretch // 2])

    def stretches(self) -> Iterator[str]:
        """Yield the text cut at the borders of the turns: every second stretch is one, the first is not."""
        borders = [0, *(border for span in self.spans for border in span), len(self.text)]
        for start, end in pairwise(borders):
            yield self.text[start:end]


def text_rows(template: Template, dialect: Dialect, turns: Sequence[Message], tools: Tools | None) -> list[TextRow]:
    """Return the rows that a conversation becomes.

    Args:
        turns: normal; control tokens that they spell are guarded.

    Raises:
        BadRow: the template refuses it, or leaves out a part of it.
    """
    if template.is_marked:
        text, spans = template.render_marked(turns, tools, prompt=False)
        return [TextRow(text, trained_spans(spans, turns))]
    given = dialect.shape(turns)
    refuse_unshown(dialect, turns, tools)
    if dialect.opening:
        # What is refused is refused below, for the reason that is found there.
        with suppress(BadRow):
            if (row := _row_of_one_text(template, dialect, turns, given, tools)) is not None:
                return [row]
    return _rows_by_turns(template, dialect, turns, given, tools)


def _row_of_one_text(
    template: Template, dialect: Dialect, turns: Sequence[Message], given: Sequence[Message], tools: Tools | None
) -> TextRow | None:
    """Return what `_rows_by_turns` does from two renderings instead of two a turn; None: it must look at each turn.

    The probe has found that the template writes every answer alike, wherever it stands. It may still drop reasoning, so
    turns with any are looked at.
    """
    answers = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
    if not answers or any(turn.get("reasoning_content") or _THINK_TAG.search(turn["content"]) for turn in turns):
        return None
    folded = len(turns) - len(given)
    whole = template.render(given, tools, prompt=False)
    if whole.count(dialect.opening) != len(answers):
        return None
    # The last prompt holds all turns but one: they do not stand otherwise in it.
    prompt = template.render(given[: answers[-1] - folded], tools, prompt=True)
    row = TextRow(whole)
    at = checked = 0
    for index in answers:
        begin = whole.find(dialect.opening, at)
        start = begin + len(dialect.opening)
        ends = [found + len(stop) for stop in dialect.stops if (found := whole.find(stop, start)) >= 0]
        # gpt-oss ends earlier answers otherwise: then a stop is that of a later one, and the openings run out.
        if begin < 0 or not ends:
            return None
        at = min(ends)
        _refuse_lost(dialect, turns[checked:index], turns[index], whole[:start], whole[start:at], tools or ())
        checked = index
        row.spans.append((start, at))
        row.trained.append(turns[index].get("train", True))
    return row if prompt == whole[: row.spans[-1][0]] else None


def _rows_by_turns(
    template: Template, dialect: Dialect, turns: Sequence[Message], given: Sequence[Message], tools: Tools | None
) -> list[TextRow]:
    rows: list[TextRow] = []
    folded = len(turns) - len(given)
    end, whole = 0, ""
    for index, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        end = index - folded
        prompt = template.render(given[:end], tools, prompt=True)
        whole = template.render(given[: end + 1], tools, prompt=False)
        said = said_after(template, dialect, prompt, whole, given[: end + 1], turn, tools)
        _refuse_lost(dialect, turns[:index], turn, prompt, said, tools or ())
        if not rows or not prompt.startswith(rows[-1].text):
            rows.append(TextRow(""))
        rows[-1].text = prompt + said
        rows[-1].spans.append((len(prompt), len(prompt) + len(said)))
        rows[-1].trained.append(turn.get("train", True))
    if rows:
        # What the template writes behind the last stop token, and turns that nobody answered.
        if end + 1 < len(given):
            whole = template.render(given, tools, prompt=False)
        if whole.startswith(rows[-1].text):
            rows[-1].text = whole
    # A row of turns that are only read teaches nothing; a conversation without any other is refused as before.
    return [row for row in rows if any(row.trained)] or rows[-1:]


def prompt_row(template: Template, dialect: Dialect, turns: Sequence[Message], tools: Tools | None) -> TextRow:
    """Return the text after which the assistant's next turn is generated, and where its earlier turns stand in it.

    Text is cut into tokens at the borders of turns, in a prompt as in training.
    """
    if template.is_marked:
        return TextRow(*template.render_marked(turns, tools, prompt=True))
    prompt = TextRow(template.render(dialect.shape(turns), tools, prompt=True))
    last = max((index for index, turn in enumerate(turns) if turn["role"] == "assistant"), default=-1)
    if last >= 0:
        # What a template cannot write is refused in training; a history that somebody sends is answered all the same.
        with suppress(BadRow):
            row = text_rows(template, dialect, turns[: last + 1], tools)[-1]
            if prompt.text.startswith(row.text[: row.spans[-1][1]]):
                prompt.spans = row.spans
    return prompt


def said_after(
    template: Template,
    dialect: Dialect,
    prompt: str,
    whole: str,
    given: Sequence[Message],
    turn: Message,
    tools: Tools | None,
) -> str:
    """Return what the model must write after a prompt to say its turn, the stop included.

    Args:
        whole: what the template writes with the turn as the last.
        given: shaped; the turn is its last.
        turn: normal.

    Raises:
        BadRow: the conversation does not go on from the prompt.
    """
    try:
        body = continued(dialect, prompt, whole, given[-2] if len(given) > 1 else None, turn.get("reasoning_content"))
    except BadRow:
        # Hermes 3 writes a result differently once an answer follows: then the mark that begins the answer is counted.
        asked = template.render(given[:-1], tools, prompt=False)
        mark = prompt[len(asked) :] if prompt.startswith(asked) else ""
        parts = whole.split(mark) if mark else []
        if len(parts) <= (count := prompt.count(mark)):
            raise
        body = mark.join(parts[count:])
    stop = dialect.call_stop if turn.get("tool_calls") else dialect.stop
    ends = [at + len(one) for one in dialect.stops if (at := body.find(one)) >= 0]
    if ends:
        return body[: min(ends)]
    # GLM's turns end where the next speaker's mark begins; others forget it (R1 behind a single call).
    return body.rstrip("\n") + stop if dialect.next_role_stops else body + stop


def continued(dialect: Dialect, prompt: str, whole: str, before: Message | None, reasoning: str | None) -> str:
    """Return what stands in a conversation behind its prompt.

    Args:
        before: the message before the turn, shaped.
    """
    by_hand = dialect.reasoning == "prompt" and bool(reasoning)
    if not by_hand and (rest := _rest(prompt, whole, before)) is not None:
        return rest
    # R1's prompt opens the reasoning, and its template writes answers without any; Gemma 4's opens and closes it. The
    # turn goes on from the prompt, because that is what it will be generated from.
    header = prompt.removesuffix(dialect.prefill)
    if (dialect.prefill and prompt.endswith(dialect.prefill)) or by_hand:
        rest = _rest(header, whole, before)
        thinking = dialect.thinking
        if rest is not None and dialect.opens_reasoning and not rest.lstrip().startswith(thinking.end):
            return f"{reasoning or ''}{thinking.close}{thinking.gap}{rest}"
        if rest is not None:
            return rest
    raise BadRow(
        "prompt is no prefix",
        "the chat template writes the assistant's turn differently than its prompt begins it",
    )


def _rest(prompt: str, whole: str, before: Message | None) -> str | None:
    """Return what follows a prompt in a conversation; None: it is not in it."""
    if whole.startswith(prompt):
        return whole[len(prompt) :]
    # With one more answer a template may drop the reasoning of the one before it, which its prompt still has. From the
    # last message on the two are alike again; messages spell no control tokens, so nothing else looks like that.
    said = (before["content"] or "").strip() if before and before["role"] != "assistant" else ""
    start = prompt.rfind(said) if said else -1
    found = whole.rfind(prompt[start:]) if start >= 0 else -1
    return whole[found + len(prompt) - start :] if found >= 0 else None


def refuse_unshown(dialect: Dialect, turns: Sequence[Message], tools: Tools | None) -> None:
    """Refuse what the template has no place for.

    Raises:
        BadRow: tools, calls or reasoning would vanish.
    """
    calls = any(turn.get("tool_calls") for turn in turns)
    if (tools and not dialect.shows_tools) or (calls and dialect.calls is None):
        raise BadRow(
            "tools without place in the template",
            "the base's chat template does not write tools and their calls; set data.template to chatml or another "
            "that does",
        )
    if dialect.reasoning == "dropped" and any(turn.get("reasoning_content") for turn in turns):
        raise BadRow("reasoning without place in the template", "the base's chat template drops the reasoning")


def _refuse_lost(
    dialect: Dialect, before: Sequence[Message], turn: Message, prompt: str, said: str, tools: Tools
) -> None:
    """Refuse a turn of which the template has left out a part: the text before it, its own, or a call."""
    for message in before:
        if message["role"] != "assistant" and not _stands_in(message["content"], prompt):
            raise BadRow(
                f"{message['role']} text lost by the template",
                f"the chat template leaves out what the {message['role']} says",
            )
    if not all(_stands_in(part, said) for part in (turn["content"], turn.get("reasoning_content") or "")):
        raise BadRow("answer lost by the template", "the chat template leaves out a part of the assistant's turn")
    if calls := turn.get("tool_calls"):
        names = [call["function"]["name"] for call in calls]
        if _called(dialect, said, tools, names) != names:
            raise BadRow(
                "call lost by the template",
                f"the chat template does not write these calls so that they can be read back: {', '.join(names)}",
            )


def _called(dialect: Dialect, said: str, tools: Tools, names: Sequence[str]) -> list[str]:
    """Return the names of the calls in a turn as it will be read, or those that stand in it if nothing reads them."""
    if dialect.syntax is None and not dialect.ours:
        return [name for name in names if said.count(name) >= names.count(name)]
    for stop in dialect.stops:
        said = said.removesuffix(stop)
    return [call["function"]["name"] for call in dialect.read(said, tools).tool_calls]


def _stands_in(part: str, text: str) -> bool:
    """Tell whether a text has a part, as it is or as JSON (gpt-oss writes results so)."""
    part = part.strip()
    return part in text or any(dumps(part, ensure_ascii=ascii_only)[1:-1] in text for ascii_only in (False, True))
