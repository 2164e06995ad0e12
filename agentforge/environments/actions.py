"""What an assistant's turn says to an environment: without its reasoning, and from its call if it made one."""

from __future__ import annotations

import re
from collections.abc import Iterator

from agentforge.data.tool_calls import CALL, parse_assistant
from agentforge.environments.base import ToolSchema

ACT = "act"
"""Name of the one tool of every environment; its one argument, `action`, is the action as text."""

_OPEN = re.compile(r"<(think|thinking)>")
_TAG = re.compile(r"<(/?)(?:think|thinking)>")
_MARKER = re.compile(r"^[^\w\n]*action[^\w\n]*:", re.IGNORECASE | re.MULTILINE)
_MARKUP = " \t`*"


def act_tool(description: str, action: str) -> ToolSchema:
    """Return an environment's `action_tool`.

    Args:
        description: what the tool does.
        action: the grammar of its argument ``action``.
    """
    parameters = {
        "type": "object",
        "properties": {"action": {"type": "string", "description": action}},
        "required": ["action"],
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": ACT, "description": description, "parameters": parameters}}


def find_action(text: str) -> str | None:
    """Return the action of a turn: that of its last call of `act`, else what follows its last ``Action:``.

    The marker stands at the beginning of a line; the action is the rest of that line, or the next line that is not
    empty. None: the turn has neither, or only inside its reasoning.
    """
    called, content = _parts(text)
    if called is not None:
        return called
    markers = list(_MARKER.finditer(content))
    if not markers:
        return None
    said = content[markers[-1].end() :].strip().splitlines() or [""]
    return said[0].strip(_MARKUP) or None


def find_answer(text: str) -> str:
    """Return where to look for the answer of a turn that has no ``Action:`` line: its last call, else all it shows."""
    called, content = _parts(text)
    return content if called is None else called


def find_call(text: str) -> str | None:
    """Return the action of the last call of `act`; None: there is none."""
    return _parts(text)[0]


def _parts(text: str) -> tuple[str | None, str]:
    """Return the action of the last call of `act`, None without one, and the visible text around the calls."""
    turn = parse_assistant(without_reasoning(text))
    called = [c["function"]["arguments"].get("action") for c in turn.tool_calls if c["function"]["name"] == ACT]
    said = called[-1] if called else None
    return said.strip() if isinstance(said, str) else None, turn.content.strip()


def without_reasoning(text: str) -> str:
    """Return a turn without what stands in ``<think>`` or ``<thinking>``.

    Reasoning that was opened by the prompt has only its closing tag, reasoning that ran out of tokens only its opening
    one. Behind a call nothing is taken away: its arguments may hold anything.

    A model that has gone wrong writes the same tag thousands of times, so the text is read once from left to right: no
    search begins again at each tag.
    """
    shown = "".join(_outside_blocks(text))
    head, call, tail = shown.partition(CALL)
    begin, cut = 0, None
    for tag in _TAG.finditer(head):
        if tag[1]:  # what came before was reasoning that the prompt opened
            begin, cut = tag.end(), None
        elif cut is None:  # the first of those that are never closed
            cut = tag.start()
    return head[begin:] + call + tail if cut is None else head[begin:cut]


def _outside_blocks(text: str) -> Iterator[str]:
    """Yield what stands before, between and behind the closed blocks of reasoning, as far as the first call."""
    end = 0  # of the last block
    call = text.find(CALL)
    unclosed: set[str] = set()  # kinds of tags that nothing closes from here on, so it is not looked for again
    for tag in _OPEN.finditer(text):
        kind = tag[1]
        if tag.start() < end or kind in unclosed:
            continue
        if 0 <= call < end:  # that one was within a block
            call = text.find(CALL, end)
        if 0 <= call < tag.start():
            break
        closing = f"</{kind}>"
        at = text.find(closing, tag.end())
        if at < 0:
            unclosed.add(kind)
            continue
        yield text[end : tag.start()]
        end = at + len(closing)
    yield text[end:]
