"""Rows that share an n-gram of words with an evaluation set are not trained on (13 words: GPT-3, appendix C)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agentforge.data.cleaning.ngram_hashing import Hashes, Ragged, ngram_hashes, word_hashes
from agentforge.data.row_text import Row, prompt_text, row_text
from agentforge.data.train_eval_split import split_hash

_BATCH = 1000


@dataclass(frozen=True)
class EvaluationSet:
    """The n-grams that must not be trained on.

    Attributes:
        n: words in an n-gram.
        grams: `(N,)` sorted hashes of all n-grams.
        prompts: `(M,)` sorted hashes of the prompts shorter than n words, which are compared as a whole.
        rows: evaluation rows that were read.
    """

    n: int
    grams: Hashes
    prompts: Hashes
    rows: int

    def contaminated(self, words: Ragged, prompts: Hashes) -> NDArray[np.bool_]:
        """Tell which rows, given as word hashes and `split_hash` of their prompts, appear in the evaluation set."""
        grams = ngram_hashes(words, self.n)
        return grams.any_per_row(_contains(self.grams, grams.values)) | _contains(self.prompts, prompts)


def collect_evaluation(rows: Iterable[Row], n: int) -> EvaluationSet:
    """Read evaluation rows (messages or text) into a set of n-grams."""
    grams: list[Hashes] = [np.zeros(0, dtype=np.uint64)]
    prompts: list[int] = []
    batch: list[Row] = []
    count = 0

    def add() -> None:
        # Duplicates go batch by batch: a benchmark repeats its instructions in every prompt.
        grams.append(np.unique(ngram_hashes(word_hashes([row_text(row) for row in batch]), n).values))
        asked = [prompt_text(row) for row in batch]
        short = word_hashes(asked).lengths < n
        prompts.extend(split_hash(prompt) for prompt, is_short in zip(asked, short, strict=True) if is_short)

    for row in rows:
        batch.append(row)
        count += 1
        if len(batch) == _BATCH:
            add()
            batch = []
    if batch:
        add()
    return EvaluationSet(n, np.unique(np.concatenate(grams)), np.unique(np.array(prompts, dtype=np.uint64)), count)


def _contains(ordered: Hashes, values: Hashes) -> NDArray[np.bool_]:
    if not len(ordered):
        return np.zeros(len(values), dtype=bool)
    # searchsorted returns len(ordered) beyond the last element; the comparison below then fails, as it should.
    places = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return np.asarray(ordered[places] == values)
