"""An assistant turn while it is written: what can be shown at once, and what it was in the end."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic_core import from_json

from agentforge.data.dialects.dialect import Dialect
from agentforge.data.tool_calls import CALL, END_CALL, END_THINK, THINK, parse_assistant, split_reasoning, unescape_tags
from agentforge.rollouts.policies.base import ToolSchema

Delta = tuple[Literal["content", "reasoning"], str]
UNFINISHED_TAG = re.compile(r"\s*(?:<\\*/?[a-z_]{0,9})?\Z")


@dataclass(frozen=True)
class Said:
    """A finished turn as a client sees it.

    Attributes:
        content: visible text. A turn whose markup cannot be read is all text: half-understood calls are not calls.
        reasoning: between the think tags, None without.
        tool_calls: nested calls, dict arguments.
        problems: what could not be read.
    """

    content: str
    reasoning: str | None
    tool_calls: list[dict[str, Any]]
    problems: list[str]

    def message(self) -> dict[str, Any]:
        """Return it as a message of the conversation."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
        return message


def read_turn(
    raw: str, *, verbatim: bool = False, dialect: Dialect | None = None, tools: Sequence[ToolSchema] = ()
) -> Said:
    """Take a turn's raw text apart.

    Args:
        dialect: how it is written; None: as agentforge's own template writes it.
        tools: on offer.
        verbatim: a text that does not begin with a tag is content as it stands: JSON that was written to a schema may
            hold any tag in its strings, where a backslash is JSON's own and no escape of ours.
    """
    if verbatim and not _begins_tag(raw):
        return Said(raw, None, [], [])
    own = dialect is None or dialect.ours
    turn = parse_assistant(raw) if dialect is None else dialect.read(raw, tools)
    turn.malformed += [problem for call in turn.tool_calls if (problem := _too_deep(call))]
    if not turn.malformed:
        return Said(turn.content.strip(), turn.reasoning_content, turn.tool_calls, [])
    if not own:
        return Said(raw.strip() if turn.reasoning_content is None else "", turn.reasoning_content, [], turn.malformed)
    unclosed = raw.lstrip().startswith(THINK) and split_reasoning(raw)[0] is None
    body = "" if unclosed else unescape_tags(split_reasoning(raw)[1]).strip()
    return Said(body, turn.reasoning_content, [], turn.malformed)


def _begins_tag(raw: str) -> bool:
    return raw.lstrip().startswith("<")


def _too_deep(call: dict[str, Any]) -> str | None:
    """Return what is wrong with a call that no later step could walk through: rendering a prompt recurses."""
    try:
        from_json(json.dumps(call))
    except ValueError:
        return f"the arguments of the call of '{call['function']['name']}' are nested too deeply"
    return None


class TurnStream:
    """Splits raw text as it arrives; the pieces of a kind add up to what `read_turn` says of the whole.

    A turn goes through its modes in this order, and may skip any of them::

        start -> reasoning -> content -> calls       what our chat template writes
        start -> verbatim                            JSON, if the turn is held to a schema

    In `start` nothing is shown: a first "<thi" may become a tag. In `reasoning` and `content` everything up to
    `_position` has been shown; what could be the beginning of a tag or of a stop string waits for the next piece. From
    the first call on, nothing is shown any more: whether the markup can be read is known at the end of the turn only,
    and if it cannot, `finish` hands it out as text.

    A ``</think>`` without its opening tag comes too late to take back what was shown: there the pieces are content.

    Args:
        stop: strings that end the turn; they and what follows are cut off.
        one_call: the turn ends with its first call; what follows is cut off.
        verbatim: see `read_turn`.
        dialect: see `read_turn`.
        tools: see `read_turn`.

    Attributes:
        raw: everything so far.
        stopped: a stop string was met, or the one call is complete.
    """

    def __init__(
        self,
        stop: Sequence[str] = (),
        *,
        one_call: bool = False,
        verbatim: bool = False,
        dialect: Dialect | None = None,
        tools: Sequence[ToolSchema] = (),
    ) -> None:
        self.raw = ""
        self.stopped = False
        self._stop = [text for text in stop if text]
        self._one_call = one_call
        self._verbatim = verbatim
        self._dialect = dialect
        self._tools = tools
        self._mode: Literal["start", "reasoning", "content", "calls", "verbatim"] = "start"
        self._position = 0
        self._body = 0
        self._shown = ""

    @property
    def position(self) -> int:
        """How many characters of `raw` have been dealt with: shown, or passed over as markup."""
        return self._position

    def said(self) -> Said:
        """Return the turn as far as it goes."""
        return read_turn(self.raw, verbatim=self._verbatim, dialect=self._dialect, tools=self._tools)

    def feed(self, text: str) -> list[Delta]:
        """Take more text; return what can be shown now."""
        if self.stopped:
            return []
        seen = len(self.raw)
        self.raw += text
        self._cut_at_stop(seen)
        held = 0 if self.stopped else self._possible_stop()
        deltas = list(self._advance(len(self.raw) - held))
        if (
            self._one_call
            and self._mode == "calls"
            and END_CALL in self.raw[max(self._position, seen - len(END_CALL)) :]
        ):
            self._cut_after_call()
        return deltas

    def finish(self) -> list[Delta]:
        """Return what was held back and belongs to the content or the reasoning."""
        deltas = list(self._advance(len(self.raw)))
        said = self.said()
        if self._mode == "reasoning":
            tail = self._reasoning(self._position, len(self.raw)).removesuffix("\n")
            return [*deltas, ("reasoning", tail)] if tail else deltas
        if said.content.startswith(self._shown) and len(said.content) > len(self._shown):
            deltas.append(("content", said.content[len(self._shown) :]))
        return deltas

    def _cut_at_stop(self, seen: int) -> None:
        found = [at for text in self._stop if (at := self.raw.find(text, max(0, seen - len(text)))) >= 0]
        if found:
            self.raw = self.raw[: min(found)]
            self.stopped = True

    def _cut_after_call(self) -> None:
        """End the turn behind the first closing tag that makes the text before it a complete call.

        Not every one does: an argument may quote the tag.
        """
        end = self._position
        while (found := self.raw.find(END_CALL, end)) >= 0:
            end = found + len(END_CALL)
            turn = parse_assistant(self.raw[:end])
            if turn.tool_calls and not turn.malformed:
                self.raw = self.raw[:end]
                self.stopped = True
                return

    def _possible_stop(self) -> int:
        """Return how many last characters could be the beginning of a stop string."""
        lengths = (n for text in self._stop for n in range(min(len(text) - 1, len(self.raw)), 0, -1))
        return max((n for n in lengths if any(s.startswith(self.raw[-n:]) for s in self._stop)), default=0)

    def _advance(self, end: int) -> Iterator[Delta]:
        if self._mode == "start":
            self._start(end)
        if self._mode == "reasoning":
            yield from self._until(END_THINK, "reasoning", end)
        if self._mode == "content":
            yield from self._until(CALL, "content", end)
        if self._mode == "verbatim" and end > self._position:
            text = self.raw[self._position : end]
            self._position = end
            self._shown += text
            yield "content", text

    def _start(self, end: int) -> None:
        text = self.raw[:end].lstrip()
        if self._verbatim and text and not _begins_tag(text):
            self._mode = "verbatim"
        elif text.startswith(THINK):
            self._position = self._body = self.raw.index(THINK) + len(THINK)
            self._mode = "reasoning"
        elif text and not THINK.startswith(text):
            self._mode = "content"

    def _until(self, tag: str, kind: Literal["content", "reasoning"], end: int) -> Iterator[Delta]:
        """Yield what stands before ``tag``; without it, what cannot be the beginning of any tag."""
        found = self.raw.find(tag, self._position, end)
        until = found if found >= 0 else max(self._position, _safe(self.raw[:end]))
        if kind == "content":
            text = unescape_tags(self.raw[self._position : until])
            text = text.rstrip() if found >= 0 else text
            text = text if self._shown else text.lstrip()
        else:
            text = self._reasoning(self._position, until)
            text = text.removesuffix("\n") if found >= 0 else text
        self._position = until
        if text:
            self._shown += text if kind == "content" else ""
            yield kind, text
        if found >= 0:
            self._position = found + len(tag)
            self._mode = "content" if kind == "reasoning" else "calls"

    def _reasoning(self, start: int, end: int) -> str:
        text = unescape_tags(self.raw[start:end])
        return text.removeprefix("\n") if start == self._body else text


def _safe(text: str) -> int:
    """Return where the trailing blanks and the unfinished tag of ``text`` begin."""
    found = UNFINISHED_TAG.search(text)
    return found.start() if found else len(text)
