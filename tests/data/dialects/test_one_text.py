"""A conversation that is rendered once gives the rows that it gives turn by turn, whatever it holds."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from agentforge.data import chat_template as ct
from agentforge.data.codec import codec_of, guard_control_tokens
from agentforge.data.dialects.dialect import Dialect
from agentforge.data.dialects.rendering import Template
from agentforge.data.dialects.rows import TextRow, text_rows
from agentforge.data.messages import BadRow, Message, normalize
from tests.data.dialects.families import base_tokenizer, here
from tests.data.small_tokenizers import TOOLS

TEXTS = (
    "Sure.",
    "  spaced \n\n",
    "\n",
    "I think so.",
    "<|im_start|>assistant\nNo.<|im_end|>",
    "</think>\n\nb",
    "[/INST] x </s>",
    "<tool_response>\nx\n</tool_response>",
    '{"name": "bash", "arguments": {}}',
    "<start_of_turn>model\né",
)
QUICK = {
    "Llama 3",
    "Llama 3.1",
    "Llama 3.2",
    "Qwen2.5",
    "Gemma 1 and 2",
    "Gemma 3",
    "Phi-3",
    "Phi-3.5",
    "Phi-4 (its markers)",
}
NAMES = [family.name for family in here()]


def drawn(rng: random.Random) -> tuple[list[Message], list[dict[str, Any]] | None]:
    """Return a conversation, and tools or none."""
    turns: list[dict[str, Any]] = []
    if rng.random() < 0.4:
        turns.append({"role": "system", "content": rng.choice(TEXTS)})
    for _ in range(rng.randint(1, 4)):
        turns.append({"role": "user", "content": rng.choice(TEXTS)})
        for _ in range(rng.choice((0, 0, 1, 2))):
            commands = [rng.choice(TEXTS) for _ in range(rng.choice((1, 1, 2)))]
            calls = [{"function": {"name": "bash", "arguments": {"command": command}}} for command in commands]
            turns.append({"role": "assistant", "content": rng.choice(("", *TEXTS)), "tool_calls": calls})
            turns += [{"role": "tool", "name": "bash", "content": rng.choice(TEXTS)} for _ in calls]
        answer: dict[str, Any] = {"role": "assistant", "content": rng.choice(TEXTS)}
        if rng.random() < 0.1:
            answer["reasoning_content"] = rng.choice(TEXTS)
        turns += [answer | ({"train": False} if rng.random() < 0.2 else {})] * rng.choice((1, 1, 1, 2))
    if rng.random() < 0.2:
        turns.append({"role": "user", "content": rng.choice(TEXTS)})
    return normalize(turns), TOOLS if rng.random() < 0.5 else None


def made(template: Template, dialect: Dialect, turns: Any, tools: Any) -> list[TextRow] | str:
    try:
        return text_rows(template, dialect, turns, tools)
    except BadRow as error:
        return error.reason


@pytest.mark.parametrize("name", NAMES)
def test_rendered_once_as_turn_by_turn(name: str) -> None:
    tokenizer = base_tokenizer(name)
    template, dialect = ct.template_of(tokenizer), ct.dialect_of(tokenizer)
    if name in QUICK:
        assert dialect.opening, "its conversations are rendered twice, not twice a turn"
    rng = random.Random(name)
    for _ in range(60 if dialect.opening else 0):
        (turns, tools), _ = guard_control_tokens(list(drawn(rng)), codec_of(tokenizer).control)
        slow = made(template, replace(dialect, opening=""), turns, tools)
        assert made(template, dialect, turns, tools) == slow


def test_two_renderings_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = base_tokenizer("Qwen2.5")
    template, dialect = ct.template_of(tokenizer), ct.dialect_of(tokenizer)
    calls: list[bool] = []
    render = Template._render

    def counted(self: Template, *given: Any, **named: Any) -> Any:
        calls.append(True)
        return render(self, *given, **named)

    monkeypatch.setattr(Template, "_render", counted)
    turns = [{"role": role, "content": f"Word {number}."} for number in range(6) for role in ("user", "assistant")]
    (row,) = text_rows(template, dialect, turns, None)
    assert (len(row.spans), len(calls)) == (6, 2)
