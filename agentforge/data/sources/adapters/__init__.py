"""Adapters: a raw row of a data set becomes rows of messages or text, or is rejected with a reason that is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from agentforge.data.sources.adapters.articles import whole_articles, wikitext
from agentforge.data.sources.adapters.base import Adapter, Raw, Rejected, Row, SourceOptions
from agentforge.data.sources.adapters.benchmarks import (
    arc,
    asdiv,
    boolq,
    drop,
    hellaswag,
    hotpotqa,
    piqa,
    strategyqa,
)
from agentforge.data.sources.adapters.code import code_to_text
from agentforge.data.sources.adapters.conversations import messages, sharegpt, wildchat
from agentforge.data.sources.adapters.glaive import glaive
from agentforge.data.sources.adapters.preferences import is_labelled, kto, preference
from agentforge.data.sources.adapters.questions import COLUMNS, gsm8k, mbpp, question_answer, stackexchange, svamp
from agentforge.data.sources.adapters.texts import herbal, text
from agentforge.data.sources.adapters.trajectories import agenttraj
from agentforge.errors import UserError, did_you_mean

__all__ = ["ADAPTERS", "JOINERS", "Adapter", "Raw", "Rejected", "Row", "SourceOptions", "detect_adapter", "get_adapter"]

ADAPTERS: dict[str, Adapter] = {
    "messages": messages,
    "sharegpt": sharegpt,
    "wildchat": wildchat,
    "preference": preference,
    "kto": kto,
    "glaive": glaive,
    "agenttraj": agenttraj,
    "gsm8k": gsm8k,
    "svamp": svamp,
    "asdiv": asdiv,
    "mbpp": mbpp,
    "stackexchange": stackexchange,
    "code_to_text": code_to_text,
    "arc": arc,
    "hellaswag": hellaswag,
    "piqa": piqa,
    "boolq": boolq,
    "strategyqa": strategyqa,
    "drop": drop,
    "hotpotqa": hotpotqa,
    "wikitext": wikitext,
    "text": text,
    "herbal": herbal,
    **{name: question_answer(name) for name in COLUMNS},
}

JOINERS: dict[str, Callable[[Iterable[Raw]], Iterator[Raw]]] = {"wikitext": whole_articles}
"""Adapters whose rows are only parts: what puts the raw rows of a source together before the adapter sees them."""

_SHAPES: tuple[tuple[str, frozenset[str]], ...] = (
    # Before the conversations, which these rows may have as well.
    ("preference", frozenset({"chosen", "rejected"})),
    ("preference", frozenset({"messages", "rejected_response"})),
    ("preference", frozenset({"messages", "rejected_messages"})),
    ("messages", frozenset({"messages"})),
    # Before sharegpt, whose `conversations` these rows have as well.
    ("agenttraj", frozenset({"conversations", "item_id"})),
    ("sharegpt", frozenset({"conversations"})),
    ("wildchat", frozenset({"conversation"})),
    ("glaive", frozenset({"system", "chat"})),
    ("svamp", frozenset({"Body", "Question", "Answer", "Equation"})),
    ("mbpp", frozenset({"code", "test_list"})),
    ("code_to_text", frozenset({"code", "docstring"})),
    ("asdiv", frozenset({"body", "question", "answer", "formula"})),
    ("asdiv", frozenset({"Body", "Question", "Answer", "Formula"})),
    ("arc", frozenset({"question", "choices", "answerKey"})),
    ("hellaswag", frozenset({"activity_label", "ctx_a", "endings"})),
    ("piqa", frozenset({"goal", "sol1", "sol2"})),
    ("hotpotqa", frozenset({"question", "answer", "supporting_facts", "context"})),
    ("drop", frozenset({"passage", "question", "query_id"})),
    ("boolq", frozenset({"passage", "question", "answer"})),
    ("strategyqa", frozenset({"qid", "question", "answer"})),
    ("openorca", frozenset({"system_prompt", "question", "response"})),
    ("alpaca", frozenset({"instruction", "output"})),
    ("dolly", frozenset({"instruction", "response"})),
    ("metamath", frozenset({"query", "response"})),
    ("cot", frozenset({"inputs", "targets"})),
    ("question_answer", frozenset({"question", "answer"})),
    ("prompt_completion", frozenset({"prompt", "completion"})),
    ("prompt_response", frozenset({"prompt", "response"})),
    ("input_output", frozenset({"input", "output"})),
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
    if is_labelled(raw):
        return "kto"
    for name, columns in _SHAPES:
        if columns <= raw.keys():
            return name
    raise UserError(
        f"no adapter fits rows with the columns {', '.join(map(str, raw)) or '(none)'}; name one with `adapter:` and "
        f"map its columns with `columns:` (adapters: {', '.join(sorted(ADAPTERS))})"
    )
