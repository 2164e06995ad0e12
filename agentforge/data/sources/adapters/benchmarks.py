"""Benchmarks of knowledge and reading: the training part of each, in the form in which its test part is scored.

lm-evaluation-harness scores a base model on the words that follow a fixed prompt, such as ``Question: ...\\nAnswer:``.
Each adapter writes that prompt with the right answer as the row's `document`, which pre-training reads. As a
conversation, the same row is a question with its choices, and an answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from agentforge.data.sources.adapters.base import (
    Raw,
    Rejected,
    Row,
    SourceOptions,
    answered,
    exchange,
    text_of,
    texts_of,
)

LETTERS, NUMBERS = "ABCDE", "12345"
MISSING = Rejected("a column is missing")
NO_LABEL = Rejected("no label")
"""Test parts are published without their answers: an empty label, or -1."""


def asdiv(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """ASDiv: ``9 (apples)`` becomes 9. The original XML has ``Body`` and ``Formula``, the Hub's copy small letters."""
    named = {key.lower(): key for key in raw}
    wanted = [named[key] for key in ("body", "question", "answer", "formula") if key in named]
    cells = {key.lower(): text_of(raw[key], key).strip() for key in wanted}
    if not all(cells.get(key) for key in ("body", "question", "answer")):
        return MISSING
    question, number = cells["question"], cells["answer"].split(" (")[0]
    worked = f"{cells['formula']}\n" if cells.get("formula") else ""
    # The harness writes no space after "Question:" here.
    document = f"{cells['body']}\nQuestion:{question}\nAnswer: {number}"
    return exchange(f"{cells['body']} {question}", f"{worked}#### {number}", document=document)


def arc(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """ARC: choices whose labels are A to E in most rows and 1 to 5 in the others; the key may be of the other kind."""
    question, choices, key = raw.get("question"), raw.get("choices"), text_of(raw.get("answerKey"), "answerKey").strip()
    if not isinstance(question, str) or not isinstance(choices, Mapping):
        return MISSING
    labels, texts = texts_of(choices.get("label"), "choices"), texts_of(choices.get("text"), "choices")
    if key not in labels:
        key = key.translate(str.maketrans(LETTERS + NUMBERS, NUMBERS + LETTERS))
    if key not in labels or len(labels) != len(texts):
        return NO_LABEL
    right = labels.index(key)
    return _choice(question, texts, right, document=answered(question, texts[right]))


def hellaswag(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """HellaSwag: a text and its right ending, without WikiHow's marks ``[header]``, ``[title]`` and ``[step]``."""
    endings, label = texts_of(raw.get("endings"), "endings"), text_of(raw.get("label"), "label")
    if not all(isinstance(raw.get(key), str) for key in ("activity_label", "ctx_a")):
        return MISSING
    if not label.isdigit() or int(label) >= len(endings):
        return NO_LABEL
    # `capitalize` also puts the rest into small letters; the harness does the same, and its prompt is what counts.
    context = f"{raw['activity_label']}: {raw['ctx_a']} {text_of(raw.get('ctx_b'), 'ctx_b').capitalize()}"
    texts = [_without_brackets(ending).strip() for ending in endings]
    start = _without_brackets(context).rstrip()
    return _choice(start, texts, int(label), document=f"{start} {texts[int(label)]}")


def _without_brackets(text: str) -> str:
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def piqa(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """PIQA: a goal and two ways to it. The test part has label -1."""
    goal, solutions, label = raw.get("goal"), [raw.get("sol1"), raw.get("sol2")], raw.get("label")
    if not isinstance(goal, str) or not all(isinstance(solution, str) for solution in solutions):
        return MISSING
    # Compared, not used as an index: solutions[-1] exists.
    if label not in (0, 1):
        return NO_LABEL
    texts = [str(solution) for solution in solutions]
    return _choice(goal, texts, label, document=answered(goal, texts[label]))


def _choice(question: str, choices: Sequence[str], right: int, document: str) -> Row | Rejected:
    """Return a question whose answer is one of some choices; the conversation shows them all."""
    shown = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return exchange(f"{question}\n{shown}", f"{LETTERS[right]}. {choices[right]}", document=document)


def boolq(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """BoolQ: a passage and a question that it answers with yes or no."""
    passage, question = raw.get("passage"), raw.get("question")
    answer = raw.get("answer", raw.get("label"))  # SuperGLUE's copy has 0 and 1 in `label`
    if not isinstance(passage, str) or not isinstance(question, str):
        return MISSING
    if answer not in (0, 1):  # which False and True are
        return NO_LABEL
    # The rows have no question mark, and the harness adds one.
    asked = f"{passage}\n\n{question.rstrip('? ')}?"
    document = f"{passage}\nQuestion: {question.rstrip('? ')}?\nAnswer: {_yes_no(answer)}"
    return exchange(asked, _yes_no(answer), document=document)


def strategyqa(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """StrategyQA: yes or no, then the facts that it follows from; the benchmark scores the first word."""
    question, answer, facts = raw.get("question"), raw.get("answer"), raw.get("facts")
    if not isinstance(question, str) or not isinstance(answer, bool):
        return MISSING
    reasons = " ".join(texts_of(facts, "facts")) if isinstance(facts, list) else text_of(facts, "facts")
    reply = f"{_yes_no(answer)}. {reasons}" if reasons.strip() else _yes_no(answer)
    return exchange(question, reply, document=answered(question, reply))


def _yes_no(answer: Any) -> str:
    return "yes" if answer else "no"


def drop(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """DROP: a question about numbers, dates and names in a passage."""
    passage, question, answer = raw.get("passage"), raw.get("question"), _drop_answer(raw)
    if not isinstance(passage, str) or not isinstance(question, str):
        return MISSING
    if not answer:
        return Rejected("empty answer")
    # The harness asks without "Question:", and reads up to the first full stop.
    return exchange(f"{passage}\n\n{question}", answer, document=f"{passage} {question} {answer}.")


def _drop_answer(raw: Raw) -> str:
    """Return the first annotator's answer: a number, a date, or one or more spans of the passage.

    AllenAI's form says which by the only field that is filled; the Hub's form (`answers_spans`) lists all annotators'
    answers one after the other, so that spans which are no copies of each other belong to one answer.
    """
    if isinstance(given := raw.get("answer"), Mapping):
        if number := text_of(given.get("number"), "answer").strip():
            return number
        if spans := texts_of(given.get("spans"), "answer"):
            return ",".join(spans)
        date = given.get("date")
        parts = [date.get(part) for part in ("day", "month", "year")] if isinstance(date, Mapping) else []
        return " ".join(text_of(part, "answer") for part in parts if part)
    listed = raw.get("answers_spans")
    given = listed if isinstance(listed, Mapping) else {}
    spans, kinds = texts_of(given.get("spans"), "answers_spans"), set(texts_of(given.get("types"), "answers_spans"))
    return ",".join(dict.fromkeys(spans)) if kinds == {"span"} else next(iter(spans), "")


def hotpotqa(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """HotpotQA: a question that needs two paragraphs, and these two.

    The other eight are distractors. All ten are 1,300 tokens: in a window of 512 the question would be cut off from its
    evidence, and guessing would be what is taught.
    """
    question, answer = raw.get("question"), raw.get("answer")
    if not isinstance(question, str) or not isinstance(answer, str):
        return MISSING
    needed = {title for title, _ in _pairs(raw.get("supporting_facts"), "sent_id")}
    paragraphs = [
        f"{title}: {''.join(texts_of(sentences, 'context')).strip()}"
        for title, sentences in _pairs(raw.get("context"), "sentences")
        if title in needed
    ]
    if len(paragraphs) != len(needed) or not needed:
        return Rejected("evidence is missing")
    evidence = "\n\n".join(paragraphs)
    return exchange(f"{evidence}\n\n{question}", answer, document=f"{evidence}\n\n{answered(question, answer)}")


def _pairs(value: Any, second: str) -> list[tuple[str, Any]]:
    """Return ``(title, ...)`` pairs: the Hub has two lists side by side, the original file a list of pairs."""
    if isinstance(value, Mapping):
        others = value.get(second)
        return list(
            zip(texts_of(value.get("title"), "title"), others if isinstance(others, list) else [], strict=False)
        )
    pairs = [pair for pair in value if isinstance(pair, Sequence) and len(pair) == 2] if isinstance(value, list) else []
    return [(text_of(title, "title"), other) for title, other in pairs]
