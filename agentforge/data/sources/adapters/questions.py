"""Sets of one question and one answer, told apart by their columns alone, and the few that need a sentence composed."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

from agentforge.data.sources.adapters.base import (
    Adapter,
    Raw,
    Rejected,
    Row,
    SourceOptions,
    answered,
    exchange,
    text_of,
)

COLUMNS: dict[str, dict[str, str]] = {
    "question_answer": {"question": "question", "answer": "answer", "system": "system", "context": "context"},
    "alpaca": {"question": "instruction", "answer": "output", "system": "system", "context": "input"},
    "openorca": {"question": "question", "answer": "response", "system": "system_prompt"},
    "metamath": {"question": "query", "answer": "response"},
    "cot": {"question": "inputs", "answer": "targets"},
    "prompt_completion": {"question": "prompt", "answer": "completion"},
}
"""Adapter to its columns: what we call a column, and what the set calls it."""

_CALCULATOR_MARK = re.compile("<<[^<>]*>>")

MBPP_SPLITS = {"prompt": (1, 10), "test": (11, 510), "validation": (511, 600), "train": (601, 974)}
"""Task ids of MBPP's splits (Austin et al. 2021, appendix A; the Hub's files are cut the same way)."""


def question_answer(name: str) -> Adapter:
    """Return the adapter of a set that has its question and its answer in two columns.

    Args:
        name: a key of `COLUMNS`; the source's own ``columns`` go before its names.
    """
    names = COLUMNS[name]

    def adapt(raw: Raw, options: SourceOptions) -> Row | Rejected:
        cells = {key: _cell(raw, options.columns.get(key, column)) for key, column in names.items()}
        question = cells["question"]
        if context := cells.get("context"):
            question = f"{question}\n\n{context}"
        if not question.strip():
            return Rejected("empty question")
        if not cells["answer"].strip():
            return Rejected("empty answer")
        return exchange(question, cells["answer"], cells.get("system", ""))

    return adapt


def _cell(raw: Raw, column: str) -> str:
    value = raw.get(column)
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        # Some data sets list every accepted answer; the first stands for them all.
        value = value[0]
    return text_of(value)


def gsm8k(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """GSM8K. The conversation keeps the calculator marks ``<<2*3=6>>``; the document leaves them out.

    A mark is what a calculator outside the model was to fill in (Cobbe et al. 2021). In pre-training there is none, and
    the marks would be a third of the answer's tokens.
    """
    question, answer = (
        _cell(raw, options.columns.get("question", "question")),
        _cell(raw, options.columns.get("answer", "answer")),
    )
    if not question.strip():
        return Rejected("empty question")
    if not answer.strip():
        return Rejected("empty answer")
    return exchange(question, answer, document=answered(question, _CALCULATOR_MARK.sub("", answer)))


def svamp(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """SVAMP: body and question; the answer is the equation and, after ``####``, the number, as in GSM8K."""
    try:
        answer = float(raw["Answer"])
        body, question, equation = (str(raw[key]).strip() for key in ("Body", "Question", "Equation"))
    except (KeyError, TypeError, ValueError):
        return Rejected("a column is missing")
    joint = "" if body.endswith((".", "?", "!", ",")) else "."
    asked, reply = f"{body}{joint} {question}".strip(), f"{equation} = {answer:g}\n#### {answer:g}"
    return exchange(asked, reply, document=answered(asked, reply))


def mbpp(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """MBPP: the task with its tests, and the reference program in a Python block. Other splits' tasks are rejected."""
    task, code, tests = raw.get("text") or raw.get("prompt"), raw.get("code"), raw.get("test_list")
    if not isinstance(task, str) or not isinstance(code, str) or not isinstance(tests, list):
        return Rejected("a column is missing")
    if options.split in MBPP_SPLITS:
        first, last = MBPP_SPLITS[options.split]
        if not isinstance(raw.get("task_id"), int) or not first <= raw["task_id"] <= last:
            return Rejected("of another split")
    checks = "\n".join(str(test) for test in tests)
    program = code.replace("\r\n", "\n").strip()
    # No sentence between them: it would be part of most 13-grams, and every task would look like an evaluation task.
    # For the same reason the document has the harness's marks, but not its "You are an expert Python programmer, ...".
    document = f"{task}\n\n{checks}\n[BEGIN]\n{program}\n[DONE]"
    return exchange(f"{task}\n\n{checks}", f"```python\n{program}\n```", document=document)


def stackexchange(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """Stack Exchange preferences: the question and its answer with the most votes, from HTML to text."""
    answers = raw.get("answers")
    scored = [a for a in answers if isinstance(a, Mapping) and a.get("text")] if isinstance(answers, list) else []
    if not scored:
        return Rejected("empty answer")
    best = max(scored, key=lambda answer: (answer.get("pm_score") or 0, bool(answer.get("selected"))))
    if (best.get("pm_score") or 0) < 1:
        return Rejected("no answer with votes")
    return exchange(plain_text(text_of(raw.get("question"))), plain_text(text_of(best["text"])))


class _Text(HTMLParser):
    """The text of HTML: blocks on their own lines, list items with a dash, everything else without its tags."""

    BLOCKS = frozenset({"p", "div", "pre", "blockquote", "ul", "ol", "h1", "h2", "h3", "hr"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag in self.BLOCKS:
            self.parts.append("\n\n")
        elif tag in ("br", "li"):
            self.parts.append("\n- " if tag == "li" else "\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self.BLOCKS:
            self.parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def plain_text(markup: str) -> str:
    """Return HTML as text; what has no tags is returned as it is, its entities resolved."""
    if not re.search(r"</?[a-zA-Z][^>]*>", markup):
        return html.unescape(markup)
    parser = _Text()
    parser.feed(markup)
    parser.close()
    return re.sub(r"\n\s*\n\s*", "\n\n", "".join(parser.parts)).strip()
