"""Refuses to score a model on benchmark rows that its recipe trains on.

Two ways lead a test row into the training data, and each is looked for:

* the mix names the same data set and the same split as the benchmark: nothing has to be read to see that;
* a local file of the mix, or a file that the manifests of the model name, quotes it. A row is taken for a copy if it
  shares an n-gram of words with a question (13 words, as `prepare` does it), or, as ARC asks many a question in fewer,
  if one of its texts is a question in full.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agentforge.data.cleaning.ngram_hashing import Hashes, ngram_hashes, word_hashes
from agentforge.data.sources.source_files import evaluation_source, registered
from agentforge.data.train_eval_split import split_hash
from agentforge.errors import CheckRefused
from agentforge.evaluation.contamination import mixed_files
from agentforge.evaluation.provenance import training_files
from agentforge.models.locate_model import ModelLocation
from agentforge.recipe.schema import Recipe

BATCH = 1000
SHORTEST = 5
"""Words of a text that is compared as a whole. "Which is true?" is no copy of a row."""


def refuse_trained_benchmarks(recipe: Recipe, tasks: Mapping[str, Any], location: ModelLocation) -> None:
    """Look for the benchmarks' rows among what the recipe trains on or the model was trained on.

    A data set that `data.decontaminate.against` names was taken out by `prepare`, and is not looked for.

    Args:
        tasks: of lm-eval, by name.

    Raises:
        CheckRefused: a row is in both.
    """
    against = [registered(evaluation_source(entry)) for entry in recipe.data.decontaminate.against]
    removed = {card.hub_id for card in against if card is not None}
    checked = {name: task for name, task in tasks.items() if task.DATASET_PATH not in removed}
    if not checked:
        return
    _refuse_same_split(recipe, checked)
    files = [f for f in dict.fromkeys([*mixed_files(recipe), *training_files(location)]) if f.suffix == ".jsonl"]
    if not files:
        return
    limit = recipe.evaluate.benchmarks.limit if recipe.evaluate.benchmarks else None
    questions = [_Questions(name, task, limit, recipe.data.decontaminate.ngram) for name, task in checked.items()]
    for file in files:
        for start, rows in _batches(file):
            for one in questions:
                if (row := one.first_copy(rows)) is not None:
                    raise CheckRefused(
                        f"{file}, line {start + row} is trained on and asked by the benchmark {one.name}: "
                        f"'{' '.join(rows[row])[:60]}'; name the benchmark's data set in data.decontaminate.against "
                        "and train again"
                    )


def _refuse_same_split(recipe: Recipe, tasks: Mapping[str, Any]) -> None:
    for source in recipe.data.mix:
        card = registered(source)
        if card is None or source.enabled is False:
            continue
        split = source.split or card.default_split
        for name, task in tasks.items():
            asked = task.get_config("test_split") or task.get_config("validation_split")
            if card.hub_id == task.DATASET_PATH and split == asked:
                raise CheckRefused(
                    f"data.mix trains on {card.id}:{split}, which the benchmark {name} asks; train on another split, "
                    "or remove the benchmark"
                )


class _Questions:
    """The questions of one benchmark, as hashes."""

    def __init__(self, name: str, task: Any, limit: int | None, ngram: int) -> None:
        self.name, self.ngram = name, ngram
        docs = list(task.eval_docs)[:limit]
        texts = [_question(task, doc) for doc in docs]
        grams = ngram_hashes(word_hashes(texts), ngram)
        of_rows = [np.unique(grams[row]) for row in range(len(texts))]
        values, counts = np.unique(np.concatenate([*of_rows, np.zeros(0, np.uint64)]), return_counts=True)
        # What several questions share is the benchmark's own instruction, and proves no copy.
        self.grams: Hashes = values[counts == 1]
        self.whole = {split_hash(text) for doc in docs for text in _texts(doc) if len(text.split()) >= SHORTEST}

    def first_copy(self, rows: Sequence[list[str]]) -> int | None:
        """Return the first of some training rows (the texts of each) that holds a question; None: there is none."""
        grams = ngram_hashes(word_hashes(["\n".join(texts) for texts in rows]), self.ngram)
        copied = grams.any_per_row(np.isin(grams.values, self.grams))
        for row, texts in enumerate(rows):
            if copied[row] or any(split_hash(text) in self.whole for text in texts):
                return row
        return None


def _question(task: Any, doc: Any) -> str:
    text = task.doc_to_decontamination_query(doc) if task.should_decontaminate() else task.doc_to_text(doc)
    # Where the choices are put into the question (Winogrande), its text is only the number of the right one.
    return text if isinstance(text, str) else "\n".join(_texts(doc))


def _batches(file: Path) -> Iterator[tuple[int, list[list[str]]]]:
    rows: list[list[str]] = []
    start = 1
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                rows.append(list(_texts(json.loads(line))))
            except ValueError:
                rows.append([])  # broken: `prepare` has counted and shown it
            if len(rows) == BATCH:
                yield start, rows
                start, rows = number + 1, []
    if rows:
        yield start, rows


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in a row of whatever shape."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
