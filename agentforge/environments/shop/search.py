"""Search by words: BM25 (Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

K1 = 1.2
B = 0.75
_WORD = re.compile(r"[a-z0-9]+")


def words_of(text: str) -> list[str]:
    """Return the words in lower case, a plural's ``s`` left out."""
    words = _WORD.findall(text.lower())
    return [word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in words]


class Index:
    """Documents by their words."""

    def __init__(self, documents: Sequence[str]) -> None:
        self._postings: dict[str, list[tuple[int, int]]] = {}
        self._lengths: list[int] = []
        for number, document in enumerate(documents):
            words = words_of(document)
            self._lengths.append(len(words))
            for word, count in Counter(words).items():
                self._postings.setdefault(word, []).append((number, count))
        self._mean = sum(self._lengths) / max(1, len(self._lengths))

    def search(self, query: str, limit: int) -> list[int]:
        """Return the numbers of the best documents, best first; equal ones in their order."""
        scores: dict[int, float] = {}
        # Each word once, in the order of the query: sums of floats depend on their order, and so might the ranking.
        for word in dict.fromkeys(words_of(query)):
            found = self._postings.get(word, [])
            # The 1 in it keeps the weight of a word positive that stands in more than half of the documents.
            rarity = math.log(1 + (len(self._lengths) - len(found) + 0.5) / (len(found) + 0.5))
            for number, count in found:
                norm = K1 * (1 - B + B * self._lengths[number] / self._mean)
                scores[number] = scores.get(number, 0.0) + rarity * count * (K1 + 1) / (count + norm)
        return sorted(scores, key=lambda number: (-scores[number], number))[:limit]
