"""Sets of one question and one answer, told apart by their columns alone, and the few that need a sentence composed."""

from __future__ import annotations

import html
import re
from collections import Counter
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
    conversation,
    exchange,
    holds_something,
    read_value,
    text_of,
    texts_of,
)
from agentforge.data.sources.adapters.conversations import as_turns, has_media, tools_of, with_system
from agentforge.data.sources.adapters.turns import Turn, from_first_question, read_turns

COLUMNS: dict[str, dict[str, str]] = {
    "question_answer": {"question": "question", "answer": "answer", "context": "context"},
    "alpaca": {"question": "instruction", "answer": "output", "context": "input"},
    "dolly": {"question": "instruction", "answer": "response", "context": "context"},
    "openorca": {"question": "question", "answer": "response", "system": "system_prompt"},
    "metamath": {"question": "query", "answer": "response"},
    "cot": {"question": "inputs", "answer": "targets"},
    "input_output": {"question": "input", "answer": "output"},
    "prompt_response": {"question": "prompt", "answer": "response"},
    "prompt_completion": {"question": "prompt", "answer": "completion"},
}
"""Adapter to its columns: what we call a column, and what the set calls it. All read ``system``, ``history``,
``tools``, ``functions``, ``reasoning_content`` and ``thinking`` as well."""

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
        left_out: Counter[str] = Counter()
        named = SourceOptions({**{key: column for key, column in names.items()}, **options.columns}, options.split)
        asked = prompt_turns(raw, named, left_out)
        if isinstance(asked, Rejected):
            return asked
        answer = completion_turns(raw, "answer", named, left_out)
        if isinstance(answer, Rejected):
            return answer
        return conversation([*asked, *answer], tools_of(raw, named, left_out), left_out)

    return adapt


def prompt_turns(raw: Raw, options: SourceOptions, left_out: Counter[str]) -> list[Turn] | Rejected:
    """Return system turn, history and question of a row; a question of turns is taken as it is, and not trained.

    Args:
        options: its columns name `question`, `context`, `system` and `history` where the set names them otherwise.
    """
    if has_media(raw):
        return Rejected("image, audio or video")
    question = options.get(raw, "question")
    if (given := as_turns(question)) is not None:
        turns = read_turns(given, left_out)
        if isinstance(turns, Rejected):
            return turns
        turns = [turn | ({"train": False} if turn["role"] == "assistant" else {}) for turn in turns]
    else:
        asked = _first_of_list(question, options.columns.get("question", "question"), left_out)
        if context := options.text(raw, "context") if "context" in options.columns else "":
            asked = f"{asked}\n\n{context}"
        if not asked.strip():
            return Rejected("empty question")
        turns = [{"role": "user", "content": asked.strip()}]
    history = _history(options.get(raw, "history"), left_out)
    if isinstance(history, Rejected):
        return history
    return with_system(from_first_question([*history, *turns], left_out), raw, options, left_out)


def completion_turns(raw: Raw, column: str, options: SourceOptions, left_out: Counter[str]) -> list[Turn] | Rejected:
    """Return the turns of an answer: of a text, one turn, with the row's reasoning before it."""
    value = options.get(raw, column)
    if (turns := as_turns(value)) is not None:
        return read_turns(turns, left_out)
    answer = _first_of_list(value, options.columns.get(column, column), left_out).strip()
    if not answer:
        return Rejected("empty answer")
    turn: Turn = {"role": "assistant", "content": answer}
    for name in ("reasoning_content", "thinking"):
        if isinstance(options.get(raw, name), bool):  # says that the model should think, not what it thought
            left_out[name] += 1
        elif thought := options.text(raw, name).strip():
            if "reasoning_content" in turn:
                left_out[name] += 1
            turn.setdefault("reasoning_content", thought)
    # Read as a conversation's turn would be: it may hold reasoning and calls between tags.
    return read_turns([turn], left_out)


def _history(value: Any, left_out: Counter[str]) -> list[Turn] | Rejected:
    """Read earlier exchanges: pairs of question and answer (LLaMA-Factory, ms-swift), or turns."""
    bad = Rejected("history is no list of pairs")
    try:
        value = read_value(value) if isinstance(value, str) and value.strip() else value
    except ValueError:
        return bad
    if not holds_something(value) or value == "":
        return []
    if (turns := as_turns(value)) is not None:
        return read_turns(turns, left_out)
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        return bad
    said = [(role, text) for pair in value for role, text in zip(("user", "assistant"), pair, strict=True)]
    return read_turns([{"role": role, "content": text_of(text, "history").strip()} for role, text in said], left_out)


def _first_of_list(value: Any, column: str, left_out: Counter[str]) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        # Some data sets list every accepted answer; the first stands for them all.
        if len(value) > 1:
            left_out[f"{column} after the first"] += len(value) - 1
        value = value[0] if value else None
    return text_of(value, column)


def gsm8k(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """GSM8K. The conversation keeps the calculator marks ``<<2*3=6>>``; the document leaves them out.

    A mark is what a calculator outside the model was to fill in (Cobbe et al. 2021). In pre-training there is none, and
    the marks would be a third of the answer's tokens.
    """
    question, answer = options.text(raw, "question"), options.text(raw, "answer")
    if not question.strip():
        return Rejected("empty question")
    if not answer.strip():
        return Rejected("empty answer")
    return exchange(question, answer, document=answered(question, _CALCULATOR_MARK.sub("", answer)))


def svamp(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """SVAMP: body and question; the answer is the equation and, after ``####``, the number, as in GSM8K."""
    try:
        answer = float(text_of(raw["Answer"], "Answer"))
        body, question, equation = (text_of(raw[key], key).strip() for key in ("Body", "Question", "Equation"))
    except (KeyError, ValueError):
        return Rejected("a column is missing")
    if not (body and question and equation):
        return Rejected("a column is missing")
    joint = "" if body.endswith((".", "?", "!", ",")) else "."
    asked, reply = f"{body}{joint} {question}".strip(), f"{equation} = {answer:g}\n#### {answer:g}"
    return exchange(asked, reply, document=answered(asked, reply))


def mbpp(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """MBPP: the task with its tests, and the reference program in a Python block. Other splits' tasks are rejected."""
    task, code, tests = (
        raw.get("text") or raw.get("prompt"),
        raw.get("code"),
        texts_of(raw.get("test_list"), "test_list"),
    )
    if not isinstance(task, str) or not isinstance(code, str):
        return Rejected("a column is missing")
    if options.split in MBPP_SPLITS:
        first, last = MBPP_SPLITS[options.split]
        if not isinstance(raw.get("task_id"), int) or not first <= raw["task_id"] <= last:
            return Rejected("of another split")
    checks = "\n".join(tests)
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
    best = max(scored, key=lambda answer: (_votes(answer), bool(answer.get("selected"))))
    if _votes(best) < 1:
        return Rejected("no answer with votes")
    return exchange(plain_text(text_of(raw.get("question"), "question")), plain_text(text_of(best["text"], "answers")))


def _votes(answer: Mapping[str, Any]) -> float:
    votes = answer.get("pm_score")
    return votes if isinstance(votes, int | float) and votes == votes else 0


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
