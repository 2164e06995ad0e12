"""An assistant turn while it is written: what can be shown at once, and what it was in the end."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentforge.data.tool_calls import CALL, END_THINK, THINK, parse_assistant, split_reasoning, unescape_tags
from agentforge.rollouts.policies.policies import Conversation, Generation, Policy, Sampling

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


def read_turn(raw: str) -> Said:
    """Take a turn's raw text apart."""
    turn = parse_assistant(raw)
    if not turn.malformed:
        return Said(turn.content.strip(), turn.reasoning_content, turn.tool_calls, [])
    unclosed = raw.lstrip().startswith(THINK) and split_reasoning(raw)[0] is None
    body = "" if unclosed else unescape_tags(split_reasoning(raw)[1]).strip()
    return Said(body, turn.reasoning_content, [], turn.malformed)


class TurnStream:
    """Splits raw text as it arrives; the pieces of a kind add up to what `read_turn` says of the whole.

    Tool calls are held back until they are complete. A ``</think>`` without its opening tag comes too late to take back
    what was shown: there the pieces are content.

    Args:
        stop: strings that end the turn; they and what follows are cut off.

    Attributes:
        raw: everything so far.
        stopped: a stop string was met.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.raw = ""
        self.stopped = False
        self._stop = [text for text in stop if text]
        self._mode: Literal["start", "reasoning", "content", "calls"] = "start"
        self._position = 0
        self._body = 0
        self._shown = ""

    def feed(self, text: str) -> list[Delta]:
        """Take more text; return what can be shown now."""
        if self.stopped:
            return []
        seen = len(self.raw)
        self.raw += text
        self._cut_at_stop(seen)
        held = 0 if self.stopped else self._possible_stop()
        return list(self._advance(len(self.raw) - held))

    def finish(self) -> list[Delta]:
        """Return what was held back and belongs to the content or the reasoning."""
        deltas = list(self._advance(len(self.raw)))
        said = read_turn(self.raw)
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

    def _start(self, end: int) -> None:
        text = self.raw[:end].lstrip()
        if text.startswith(THINK):
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


@dataclass(frozen=True)
class Spoken:
    """A turn that a policy has written; ``cut`` tells that a stop string ended it."""

    said: Said
    generation: Generation
    cut: bool

    @property
    def finish_reason(self) -> str:
        """OpenAI's word for why it ended."""
        if self.said.tool_calls:
            return "tool_calls"
        return "stop" if self.cut or self.generation.stopped else "length"


def speak(
    policy: Policy,
    conversation: Conversation,
    sampling: Sampling,
    on_delta: Callable[[Delta], None],
    *,
    stop: Sequence[str] = (),
    cancelled: threading.Event | None = None,
) -> Spoken:
    """Let a policy write the next turn, handing out its pieces.

    Args:
        stop: strings that end the turn.
        cancelled: ends the turn at the next token once it is set.
    """
    stream = TurnStream(stop)

    def on_text(text: str) -> bool:
        for delta in stream.feed(text):
            on_delta(delta)
        return stream.stopped or (cancelled is not None and cancelled.is_set())

    generation = policy.chat(conversation.messages, conversation.tools, sampling=sampling, on_text=on_text)
    for delta in stream.finish():
        on_delta(delta)
    return Spoken(read_turn(stream.raw), generation, stream.stopped)
