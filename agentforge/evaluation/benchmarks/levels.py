"""What a benchmark's score has to be compared with: guessing, and always giving the same answer.

A 25M model has 25 % on four choices by guessing, and 62 % on BoolQ by always saying yes. Both levels are taken from
the very rows that were asked, because their number of choices and their answers vary.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

CHOOSING = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")
"""Metrics of a task with choices that are 1 where the chosen one is right."""


def levels(task: Any, metric: str, docs: Sequence[Any], binary: bool) -> tuple[float | None, float | None]:
    """Return what chance and what one constant answer would score on these rows; None: there is no such level.

    Args:
        task: of lm-eval.
        docs: the rows that were asked.
        binary: whether the metric is 0 or 1 on each row.
    """
    if not binary:
        return None, None
    if task.OUTPUT_TYPE == "multiple_choice":
        return _of_choices(task, docs) if metric in CHOOSING else (None, None)
    # Of all texts that could be written, as good as none is right: an arithmetic answer, a program.
    constant = _most_frequent(task, docs) if metric == "exact_match" else None
    return 0.0, constant


def _of_choices(task: Any, docs: Sequence[Any]) -> tuple[float, float]:
    shares, places = [], Counter[int]()
    for doc in docs:
        choices, right = task.doc_to_choice(doc), _right(task, doc)
        shares.append(len(right) / len(choices))
        places.update(right)
    return sum(shares) / len(docs), max(places.values(), default=0) / len(docs)


def _right(task: Any, doc: Any) -> set[int]:
    """Return the places of the right choices, as lm-eval finds them (`ConfigurableTask.process_results`)."""
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    choices = task.doc_to_choice(doc)
    several = gold if isinstance(gold, list) else [gold]
    # A gold answer by its text; one that is not among the choices is never right.
    found = [choices.index(one) if one in choices else -1 for one in several if isinstance(one, str)]
    found += [int(one) for one in several if not isinstance(one, str)]
    return {place for place in found if 0 <= place < len(choices)}


def _most_frequent(task: Any, docs: Sequence[Any]) -> float:
    settings = task._metric_fn_kwargs.get("exact_match", {})
    answers = Counter[str]()
    for doc in docs:
        gold = task.doc_to_target(doc)
        if task.get_config("doc_to_choice") is not None and isinstance(gold, int):
            gold = task.doc_to_choice(doc)[gold]
        answers.update({_compared(str(one), settings) for one in (gold if isinstance(gold, list) else [gold])})
    return max(answers.values()) / len(docs)


def _compared(text: str, settings: dict[str, Any]) -> str:
    """Return what the metric compares of an answer: GSM8K ignores all before ``####``, and so the number is left."""
    for pattern in settings.get("regexes_to_ignore") or ():
        text = re.sub(pattern, "", text)
    return text.strip().lower() if settings.get("ignore_case") else text.strip()
