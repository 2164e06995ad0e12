"""Adapters: a raw row of a data set becomes rows of messages or text, or is rejected with a reason that is counted."""

from __future__ import annotations

from agentforge.data.sources.adapters.base import Adapter, Raw, Rejected, Row, SourceOptions
from agentforge.data.sources.adapters.conversations import messages, sharegpt, wildchat
from agentforge.data.sources.adapters.glaive import glaive
from agentforge.data.sources.adapters.questions import COLUMNS, mbpp, question_answer, stackexchange, svamp
from agentforge.data.sources.adapters.texts import herbal, text
from agentforge.data.sources.adapters.trajectories import agenttraj
from agentforge.errors import UserError, did_you_mean

__all__ = ["ADAPTERS", "Adapter", "Raw", "Rejected", "Row", "SourceOptions", "detect_adapter", "get_adapter"]

ADAPTERS: dict[str, Adapter] = {
    "messages": messages,
    "sharegpt": sharegpt,
    "wildchat": wildchat,
    "glaive": glaive,
    "agenttraj": agenttraj,
    "svamp": svamp,
    "mbpp": mbpp,
    "stackexchange": stackexchange,
    "text": text,
    "herbal": herbal,
    **{name: question_answer(name) for name in COLUMNS},
}

_SHAPES: tuple[tuple[str, frozenset[str]], ...] = (
    ("messages", frozenset({"messages"})),
    # Before sharegpt, whose `conversations` these rows have as well.
    ("agenttraj", frozenset({"conversations", "item_id"})),
    ("sharegpt", frozenset({"conversations"})),
    ("wildchat", frozenset({"conversation"})),
    ("glaive", frozenset({"system", "chat"})),
    ("svamp", frozenset({"Body", "Question", "Answer"})),
    ("mbpp", frozenset({"code", "test_list"})),
    ("openorca", frozenset({"system_prompt", "question", "response"})),
    ("alpaca", frozenset({"instruction", "output"})),
    ("metamath", frozenset({"query", "response"})),
    ("cot", frozenset({"inputs", "targets"})),
    ("question_answer", frozenset({"question", "answer"})),
    ("prompt_completion", frozenset({"prompt", "completion"})),
    # Last: many sets have a column `text` beside the ones that matter.
    ("text", frozenset({"text"})),
)
"""Adapter and the columns that a row of its shape has; the first that fits is taken."""


def get_adapter(name: str) -> Adapter:
    """Return an adapter by its name.

    Raises:
        UserError: there is none; the nearest name is given.
    """
    if name not in ADAPTERS:
        known = sorted(ADAPTERS)
        raise UserError(f"there is no adapter '{name}'{did_you_mean(name, known)}; known: {', '.join(known)}")
    return ADAPTERS[name]


def detect_adapter(raw: Raw) -> str:
    """Return the name of the adapter for rows with these columns.

    Raises:
        UserError: no adapter's columns are all there.
    """
    for name, columns in _SHAPES:
        if columns <= raw.keys():
            return name
    raise UserError(
        f"no adapter fits rows with the columns {', '.join(map(str, raw)) or '(none)'}; name one with `adapter:` and "
        f"map its columns with `columns:` (adapters: {', '.join(sorted(ADAPTERS))})"
    )
