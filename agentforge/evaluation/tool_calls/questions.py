"""Tool-call questions: held-out conversations in which the assistant's next turn must be given calls."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentforge.data.messages import Message, normalize
from agentforge.data.tool_calls import ParsedTurn, parse_assistant
from agentforge.data.tools import ToolSet
from agentforge.errors import UserError
from agentforge.evaluation.statistics.intervals import beta_jeffreys
from agentforge.rollouts.policies.base import Conversation, Generation, Policy


@dataclass(frozen=True)
class Question:
    """One turn to be written.

    Attributes:
        id: ``file:line:turn``, the turn counted in messages from 0.
        context: the conversation before the turn, real tool results with it.
        tools: what is on offer.
        expected: the calls of the turn as nested calls.
    """

    id: str
    context: list[Message]
    tools: ToolSet
    expected: list[dict[str, Any]]

    @property
    def conversation(self) -> Conversation:
        return Conversation(self.context, self.tools.schemas)

    @property
    def chance(self) -> float:
        """Probability of naming the right tools by drawing as many as are expected, each evenly from those on offer."""
        # Several calls are right in any order: of two tools, a and b are drawn by 2 of 4 pairs, a and a by only 1.
        same = math.prod(math.factorial(count) for count in Counter(_names(self.expected)).values())
        orders = math.factorial(len(self.expected)) // same
        return float(orders / len(self.tools.names) ** len(self.expected))


@dataclass(frozen=True)
class Answer:
    """What a model wrote for a question, and what of it is right.

    Attributes:
        well_formed: at least one call; all of it can be parsed; each names a tool on offer with arguments that its
            schema accepts.
        right_tool: the names of the calls are those expected (several calls: in any order).
        exact_arguments: names and arguments are those expected, as JSON values.
        finished: the model ended its turn itself.
        problems: why it is not well-formed.
    """

    question: Question
    generation: Generation
    turn: ParsedTurn
    well_formed: bool
    right_tool: bool
    exact_arguments: bool
    finished: bool
    problems: list[str]

    def row(self) -> dict[str, Any]:
        """Return it as a line of rows.jsonl."""
        return {
            "id": self.question.id,
            "prompt": self.question.context[-1]["content"],
            "expected": [call["function"] for call in self.question.expected],
            "text": self.generation.text,
            "calls": [call["function"] for call in self.turn.tool_calls],
            **{name: getattr(self, name) for name in MEASURES},
            "problems": self.problems,
            "prompt_tokens": self.generation.prompt_tokens,
            "new_tokens": len(self.generation.token_ids),
        }


MEASURES = {
    "well_formed": "a call that parses, of a known tool, whose arguments its schema accepts",
    "right_tool": "the expected tool",
    "exact_arguments": "the expected tool with the expected arguments",
    "finished": "the turn ended by its stop token",
}


def read_questions(files: Sequence[Path], tools: ToolSet | None, system: str | None) -> list[Question]:
    """Return every assistant turn with calls of the conversations in JSONL ``files``.

    Args:
        files: lines ``{"messages": [...], "tools": [...]}``; a held-out set is our own, so a broken line is an error.
        tools: on offer where a row has none.
        system: the system turn of rows that have none.

    Raises:
        UserError: with file and line, for a line that cannot be used; or if there is no question at all.
    """
    questions = [question for file in files for question in _read_file(file, tools, system)]
    if not questions:
        raise UserError(f"no assistant turn with a tool call in {', '.join(map(str, files))}; there is nothing to ask")
    return questions


def _read_file(file: Path, tools: ToolSet | None, system: str | None) -> Iterator[Question]:
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            messages = normalize(row["messages"])
        except (ValueError, KeyError, TypeError, UserError) as error:
            raise UserError(f"{file}, line {number}: not a conversation ({type(error).__name__}: {error})") from None
        # Tools of the row go before the recipe's: it was recorded with them.
        offered = ToolSet(f"{file}:{number}", row["tools"]) if row.get("tools") else tools
        if offered is None:
            raise UserError(f"{file}, line {number}: the row has no tools, and the recipe does not set data.tools")
        if system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": system}, *messages]
        for turn, message in enumerate(messages):
            if calls := message.get("tool_calls"):
                # The true history up to the turn, so that one mistake does not spoil the questions after it.
                yield Question(f"{file}:{number}:{turn}", messages[:turn], offered, calls)


def judge(question: Question, generation: Generation, policy: Policy | None = None) -> Answer:
    """Compare what was written with what was expected.

    Args:
        policy: who wrote it, and so in which form calls are written; None: in agentforge's own.
    """
    read = policy.read if policy else lambda text, _: parse_assistant(text)
    turn = read(generation.text, question.tools.schemas)
    # A call that parses but cannot be run is not well-formed either: an unknown tool, or arguments that its schema
    # refuses.
    problems = [*turn.malformed, *(p for call in turn.tool_calls if (p := question.tools.check(call)) is not None)]
    if not turn.tool_calls and not turn.malformed:
        problems.append("no tool call")
    return Answer(
        question,
        generation,
        turn,
        well_formed=not problems,
        right_tool=_names(turn.tool_calls) == _names(question.expected),
        exact_arguments=_canonical(turn.tool_calls) == _canonical(question.expected),
        finished=generation.stopped,
        problems=problems,
    )


def score(answers: Sequence[Answer], confidence: float) -> dict[str, dict[str, Any]]:
    """Return each measure with its successes, n, value, interval and chance level (None where there is none)."""
    n = len(answers)
    scores = {}
    for name, meaning in MEASURES.items():
        successes = sum(getattr(answer, name) for answer in answers)
        low, high = beta_jeffreys(successes, n, confidence)
        chance = sum(answer.question.chance for answer in answers) / n if name == "right_tool" else None
        scores[name] = {
            "meaning": meaning,
            "successes": successes,
            "n": n,
            "value": successes / n,
            "low": low,
            "high": high,
            "chance": chance,
        }
    return scores


def _names(calls: Iterable[dict[str, Any]]) -> list[str]:
    return sorted(call["function"]["name"] for call in calls)


def _canonical(calls: Iterable[dict[str, Any]]) -> list[str]:
    # sort_keys: the order of a JSON object's keys has no meaning
    return sorted(json.dumps(call["function"], sort_keys=True, ensure_ascii=False) for call in calls)
