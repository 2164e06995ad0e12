"""What a chat template does with conversations, and how the turns that it writes are read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentforge.data.dialects.call_syntaxes import Syntax
from agentforge.data.messages import Message
from agentforge.data.tool_calls import END_THINK, THINK, ParsedTurn, parse_assistant

Reasoning = Literal["key", "content", "prompt", "dropped"]


@dataclass(frozen=True)
class Thinking:
    """The marks around reasoning, and what stands before and behind the visible text.

    Attributes:
        begin, end: around the reasoning.
        close: from the last word of the reasoning to the end mark: some write a newline before it.
        gap: what stands between the end mark and the answer where the template writes no reasoning itself.
        heads: marks before the visible text that are no part of it.
        tail: mark behind it.
    """

    begin: str = THINK
    end: str = END_THINK
    close: str = f"\n{END_THINK}"
    gap: str = ""
    heads: tuple[str, ...] = ()
    tail: str = ""


@dataclass(frozen=True)
class Dialect:
    """What the probe has found out about a template.

    Attributes:
        ours: it is agentforge's own.
        folds_system: it has no system turn, so the system's text goes before the first user turn's.
        shows_tools: tools on offer are written into the prompt.
        calls: how calls are given to it: with their arguments as a dict or as JSON text; None: it writes none.
        empty_content: what stands for the content of a turn that only calls.
        syntax: how it writes calls; None: it writes none that can be read back.
        reasoning: where it takes reasoning from: a key of the message, the content between think tags, nowhere but its
            prompt opens it (R1), or nowhere.
        thinking: see there.
        opens_reasoning: the prompt ends inside the reasoning.
        prefill: what a prompt ends with that an answer without reasoning, written as history, does not begin with.
        stop: what ends a turn.
        call_stop: what ends a turn with calls.
        next_role_stops: the stop is the mark of whoever speaks next (GLM), so a last turn is written without it.
        rewrites: with further turns it writes earlier ones differently.
        opening: what it writes before each answer without reasoning, whatever stands around it, so that a conversation
            rendered once shows where its answers stand; empty: they must be rendered one after the other.
    """

    ours: bool
    folds_system: bool
    shows_tools: bool
    calls: Literal["dict", "text"] | None
    empty_content: str | None
    syntax: Syntax | None
    reasoning: Reasoning
    thinking: Thinking
    opens_reasoning: bool
    prefill: str
    stop: str
    call_stop: str
    next_role_stops: bool
    rewrites: bool
    opening: str

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts of the tokens that end a turn, the plain one first."""
        return tuple(dict.fromkeys((self.stop, self.call_stop)))

    def shape(self, turns: Sequence[Message]) -> list[Message]:
        """Return normal messages as this template wants them."""
        return shape(turns, self.folds_system, self.calls or "dict", self.empty_content, self.reasoning)

    def read(self, text: str, tools: Sequence[Mapping[str, Any]] = ()) -> ParsedTurn:
        """Take an assistant turn apart.

        Args:
            text: what the model wrote, without the stop token.
            tools: on offer; some forms do not say whether an argument is a text or a number.
        """
        if self.ours:
            return parse_assistant(text)
        turn = ParsedTurn()
        body = self._without_reasoning(text, turn)
        if turn.malformed:
            return turn
        for head in self.thinking.heads:
            if body.lstrip().startswith(head):
                body = body.lstrip().removeprefix(head)
                break
        at = self.syntax.find(body) if self.syntax else None
        if self.syntax is not None and at is not None:
            try:
                turn.tool_calls = self.syntax.read(body[at:], tools)
            except ValueError as error:
                turn.malformed.append(str(error))
            body = body[:at]
        body = body.strip()
        turn.content = body.removesuffix(self.thinking.tail).strip() if self.thinking.tail else body
        return turn

    def _without_reasoning(self, text: str, turn: ParsedTurn) -> str:
        begin, end = self.thinking.begin, self.thinking.end
        body = text.lstrip()
        opened = bool(begin) and body.startswith(begin)
        if opened:
            body = body.removeprefix(begin)
        call = self.syntax.find(body) if self.syntax else None
        # An argument may quote the end mark, so it is looked for before the first call; only reasoning that was
        # opened in this text goes on through one.
        closed = body.find(end) if opened else body.find(end, 0, len(body) if call is None else call)
        if closed >= 0:
            turn.reasoning_content = body[:closed].strip() or None
            return body[closed + len(end) :]
        if opened:
            # Cut off while thinking: a call that stands in a thought was never made.
            turn.malformed.append(f"the reasoning is never closed with {end}")
            turn.reasoning_content = body.strip() or None
            return ""
        return text


def shape(
    turns: Sequence[Message],
    folds_system: bool,
    calls: Literal["dict", "text"],
    empty_content: str | None,
    reasoning: Reasoning,
) -> list[Message]:
    """Return normal messages with what templates want beside it: ids of calls, names of results.

    The ids are numbers, so that a conversation has the same tokens in training and when it is answered; nine digits,
    because Mistral's templates take no other length.
    """
    from json import dumps

    shaped: list[Message] = []
    waiting: list[tuple[str, str]] = []  # id and name of calls without a result
    count = 0
    for turn in turns:
        turn = dict(turn)
        if turn.get("tool_calls"):
            waiting = []
            numbered = []
            for call in turn["tool_calls"]:
                count += 1
                function = dict(call["function"])
                if calls == "text":
                    function["arguments"] = dumps(function["arguments"], ensure_ascii=False)
                numbered.append({"id": f"{count:09d}", "type": "function", "function": function})
                waiting.append((f"{count:09d}", function["name"]))
            turn["tool_calls"] = numbered
            turn["content"] = turn["content"] or empty_content
        elif turn["role"] == "tool" and waiting:
            answered, name = waiting.pop(0)
            turn = {"name": name, **turn, "tool_call_id": answered}
        if reasoning != "key" and (thought := turn.pop("reasoning_content", None)) and reasoning == "content":
            turn["content"] = f"{THINK}\n{thought}\n{END_THINK}\n\n{turn['content'] or ''}"
        shaped.append(turn)
    if folds_system and shaped and shaped[0]["role"] == "system":
        return _folded(shaped)
    return shaped


def _folded(turns: list[Message]) -> list[Message]:
    """Put the system's text before the first user turn's, as llama.cpp does for such templates."""
    system, *rest = turns
    for index, turn in enumerate(rest):
        if turn["role"] == "user":
            joined = turn | {"content": f"{system['content']}\n\n{turn['content']}"}
            return [*rest[:index], joined, *rest[index + 1 :]]
    return rest
