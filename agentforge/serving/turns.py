"""An assistant turn while it is written: what can be shown at once, and what it was in the end."""

from __future__ import annotations

import json
import re
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic_core import from_json

from agentforge.data.tool_calls import CALL, END_CALL, END_THINK, THINK, parse_assistant, split_reasoning, unescape_tags
from agentforge.rollouts.policies.base import Conversation, Generation, Policy
from agentforge.rollouts.policies.steering import Steering, Step

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


def read_turn(raw: str, *, verbatim: bool = False) -> Said:
    """Take a turn's raw text apart.

    Args:
        verbatim: a text that does not begin with a tag is content as it stands: JSON that was written to a schema may
            hold any tag in its strings, where a backslash is JSON's own and no escape of ours.
    """
    if verbatim and not _begins_tag(raw):
        return Said(raw, None, [], [])
    turn = parse_assistant(raw)
    turn.malformed += [problem for call in turn.tool_calls if (problem := _too_deep(call))]
    if not turn.malformed:
        return Said(turn.content.strip(), turn.reasoning_content, turn.tool_calls, [])
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

    Attributes:
        raw: everything so far.
        stopped: a stop string was met, or the one call is complete.
    """

    def __init__(self, stop: Sequence[str] = (), *, one_call: bool = False, verbatim: bool = False) -> None:
        self.raw = ""
        self.stopped = False
        self._stop = [text for text in stop if text]
        self._one_call = one_call
        self._verbatim = verbatim
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
        return read_turn(self.raw, verbatim=self._verbatim)

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


@dataclass(frozen=True)
class ScoredToken:
    """A token of a turn, and how likely the model held it.

    Attributes:
        logprob: see `steering.Step`.
        top: the likeliest tokens there, likeliest first, with their log-probabilities.
    """

    text: str
    logprob: float
    top: list[tuple[str, float]]


@dataclass(frozen=True)
class Spoken:
    """A turn that a policy has written.

    Attributes:
        cut: a stop string, or the one call that was allowed, ended it.
        tokens: those that its text consists of, the stop token left out; empty if nobody asked.
        reported: how many of them were handed out with the pieces.
    """

    said: Said
    generation: Generation
    cut: bool
    tokens: list[ScoredToken] = field(default_factory=list)
    reported: int = 0

    @property
    def finish_reason(self) -> str:
        """OpenAI's word for why it ended."""
        if self.said.tool_calls:
            return "tool_calls"
        return "stop" if self.cut or self.generation.stopped else "length"


OnDelta = Callable[[Delta, list[ScoredToken]], None]
"""Called with a piece of the turn, and the tokens since the piece before it, if they are scored."""


class Teller:
    """Hands out a turn's pieces, each with its tokens.

    Text and tokens do not run in step: a piece may be held back, a character may take several tokens. So each token
    is known by the place in the raw text where it begins, and goes out with the piece that first reaches beyond it.
    """

    def __init__(self, policy: Policy, steering: Steering, stream: TurnStream, on_delta: OnDelta) -> None:
        self._policy = policy
        self._steering = steering
        self._stream = stream
        self._on_delta = on_delta
        self._starts: list[int] = []
        self._tokens: list[ScoredToken] = []
        self._reported = 0

    def hear(self, text: str, token: int | None) -> bool:
        """Take the text of one token, or what is left over at the end; tell whether the turn is over."""
        if token is not None and self._steering.steps:
            self._starts.append(len(self._stream.raw))
            self._tokens.append(self._scored(self._steering.steps[-1]))
        self._hand_out(self._stream.feed(text))
        return self._stream.stopped

    def finish(self, generation: Generation) -> Spoken:
        """Hand out what was held back; returns the turn."""
        self._hand_out(self._stream.finish())
        # a stop string cuts the text: the tokens behind the cut were drawn, but are no part of the answer
        count = self._begun(len(self._stream.raw)) if self._stream.stopped else len(self._tokens)
        said, cut = self._stream.said(), self._stream.stopped
        return Spoken(said, generation, cut, self._tokens[:count], min(self._reported, count))

    def _hand_out(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:  # several at once come of one token, which goes with the first
            count = self._begun(self._stream.position)
            self._on_delta(delta, self._tokens[self._reported : count])
            self._reported = count

    def _begun(self, place: int) -> int:
        """Return how many tokens begin before a place in the raw text."""
        return bisect_left(self._starts, place)

    def _scored(self, step: Step) -> ScoredToken:
        top = [(self._policy.decode([token]), logprob) for token, logprob in step.top]
        return ScoredToken(self._policy.decode([step.token]), step.logprob, top)


def speak(
    policy: Policy,
    conversation: Conversation,
    steering: Steering,
    on_delta: OnDelta,
    stream: TurnStream | None = None,
    cancelled: threading.Event | None = None,
) -> Spoken:
    """Let a policy write the next turn, handing out its pieces.

    Args:
        stream: splits the turn, and may end it.
        cancelled: ends the turn at the next token once it is set.
    """
    teller = Teller(policy, steering, stream or TurnStream(), on_delta)

    def on_text(text: str, token: int | None) -> bool:
        return teller.hear(text, token) or (cancelled is not None and cancelled.is_set())

    return teller.finish(policy.reply(conversation, steering, on_text))
