"""How the template that a model is trained with differs from the one that its base was trained with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agentforge.data.dialects.dialect import shape
from agentforge.data.dialects.probe import ARGUMENTS, RESULT, SYSTEM, THOUGHT, TOOL, assistant, called, user
from agentforge.data.dialects.rendering import Template
from agentforge.data.messages import BadRow, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

CALL = assistant("", tool_calls=[called(ARGUMENTS[1])])
RESULT_TURN: Message = {"role": "tool", "content": RESULT}
CASES: tuple[tuple[str, list[Message], bool], ...] = (
    ("a question and its answer", [user(), assistant()], False),
    ("a system turn", [{"role": "system", "content": SYSTEM}, user(), assistant()], False),
    ("several turns", [user(), assistant(), user(), assistant()], False),
    ("tools on offer", [user(), assistant()], True),
    ("a tool call and its result", [user(), CALL, RESULT_TURN, assistant()], True),
    (
        "parallel calls",
        [user(), CALL | {"tool_calls": CALL["tool_calls"] * 2}, RESULT_TURN, RESULT_TURN, assistant()],
        True,
    ),
    ("reasoning", [user(), assistant(reasoning_content=THOUGHT)], False),
)
"""What is compared: a name, the messages, and whether a tool is on offer."""


def differences(own: Template, chosen: Template) -> dict[str, str]:
    """Return the cases that two templates write differently, each with the first place where they part."""
    found = {}
    for name, turns, with_tool in CASES:
        for prompt in (False, True):
            given = turns[:-1] if prompt else turns
            theirs, ours = (_written(template, given, with_tool, prompt) for template in (own, chosen))
            if theirs != ours:
                found[name] = _parting(theirs, ours)
                break
    return found


def say_differences(own: Template | None, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Warn where the tokenizer's chosen template writes what the base has never seen; returns `differences`."""
    if own is None:
        return {}
    found = differences(own, Template(str(tokenizer.chat_template), own.special))
    if found:
        first, where = next(iter(found.items()))
        log.warning(
            "the chosen chat template is not the base's own: they differ in %s; %s: %s. Training must teach the new "
            "form; data.template: auto keeps the base's",
            ", ".join(found),
            first,
            where,
        )
    return found


def _written(template: Template, turns: Sequence[Message], with_tool: bool, prompt: bool) -> str:
    shaped: list[dict[str, Any]] = shape(turns, False, "dict", "", "key")
    try:
        return template.render(shaped, [TOOL] if with_tool else None, prompt)
    except BadRow:
        return ""


def _parting(theirs: str, ours: str) -> str:
    if not theirs or not ours:
        return f"{'the base' if not theirs else 'the chosen one'} refuses it"
    at = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours)))
    start = max(0, at - 20)
    return f"{ours[start : at + 40]!r} instead of {theirs[start : at + 40]!r}"
