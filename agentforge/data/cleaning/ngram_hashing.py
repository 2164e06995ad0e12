"""Words and word n-grams as 64-bit hashes, for a batch of texts at once.

Deduplication, decontamination and the repetition filter look at the same words, so they are hashed once. A word is a
run of letters, digits and underscores after NFKC and case folding; a character of a script that is written without
spaces is a word by itself. Two different n-grams have the same hash with a probability near 2^-64.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_SPACELESS}]|[^\W{_SPACELESS}]+")
_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 2**64)
_BATCH_BYTES = 1 << 18


def _byte_values() -> Hashes:
    """Value of each byte in a word: its lower case, 0 where it separates words. Bytes from 128 are parts of letters."""
    values = np.zeros(256, dtype=np.uint64)
    for byte in range(256):
        if byte >= 128 or chr(byte).isalnum() or byte == ord("_"):
            values[byte] = ord(chr(byte).lower()) if byte < 128 else byte
    return values


_VALUES = _byte_values()


@dataclass(frozen=True)
class Ragged:
    """Rows of hashes of different length: row ``i`` is ``values[offsets[i]:offsets[i + 1]]``.

    Attributes:
        values: `(N,)` all rows, one after another.
        offsets: `(rows + 1,)`.
    """

    values: Hashes
    offsets: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """`(rows,)`"""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Hashes:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def any_per_row(self, flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Tell for each row whether one of its values is flagged; ``flags`` is `(N,)`, the answer `(rows,)`."""
        before = np.concatenate([[0], np.cumsum(flags)])
        return before[self.offsets[1:]] > before[self.offsets[:-1]]


def scramble(values: Hashes) -> Hashes:
    """Return a bijective scramble of 64-bit values (the finaliser of splitmix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def word_hashes(texts: Sequence[str]) -> Ragged:
    """Return the hashes of each text's words."""
    parts: list[Hashes] = []
    lengths = np.zeros(len(texts), dtype=np.int64)
    batch: list[tuple[int, bytes]] = []
    size = 0
    for row, text in enumerate(texts):
        for piece in _pieces(_word_bytes(text)):
            if batch and size + len(piece) > _BATCH_BYTES:
                _hash_batch(batch, parts, lengths)
                batch, size = [], 0
            batch.append((row, piece))
            size += len(piece)
    if batch:
        _hash_batch(batch, parts, lengths)
    values = np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint64)
    return Ragged(values, np.concatenate([[0], np.cumsum(lengths)]))


def _pieces(text: bytes) -> Iterator[bytes]:
    """Cut a long text at spaces (or, if it has none, where it must be), so that memory does not grow with it."""
    while len(text) > _BATCH_BYTES:
        cut = text.rfind(b" ", 1, _BATCH_BYTES)
        cut = cut if cut > 0 else _BATCH_BYTES
        yield text[:cut]
        text = text[cut:]
    yield text


def _word_bytes(text: str) -> bytes:
    # `_VALUES` folds the case of ASCII and separates its words, which saves the pass below for most texts.
    if text.isascii():
        return text.encode()
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORD.findall(folded)).encode("utf-8", "replace")


def _hash_batch(batch: list[tuple[int, bytes]], parts: list[Hashes], lengths: NDArray[np.int64]) -> None:
    """Hash every word as a polynomial of its bytes, all words of the batch in a few passes over its bytes.

    The hashes are appended to ``parts``, the number of words is added to the row's entry in ``lengths``.
    """
    # NUL separates words. Between two texts it keeps a word from crossing the border; at the front, it lets the first
    # begin.
    joined = np.frombuffer(b"\0" + b"\0".join(text for _, text in batch), dtype=np.uint8)
    values = _VALUES[joined]
    inside = values != 0
    starts = np.flatnonzero(inside[1:] & ~inside[:-1]) + 1
    borders = np.cumsum([1] + [len(text) + 1 for _, text in batch])
    np.add.at(lengths, [row for row, _ in batch], np.diff(np.searchsorted(starts, borders)))
    if not len(starts):
        return
    values *= _powers(_BASE, len(joined))
    # From one word's start to the next: the separators in between count 0.
    sums = np.add.reduceat(values, starts)
    # the sum has the factor BASE^start; without it the hash does not depend on where the word stands
    parts.append(scramble(sums * _powers(_INVERSE, len(joined))[starts]))


_tables: dict[int, Hashes] = {}


def _powers(base: int, count: int) -> Hashes:
    table = _tables.get(base)
    if table is None or len(table) < count:
        factors = np.full(max(count, _BATCH_BYTES), base, dtype=np.uint64)
        factors[0] = 1
        table = _tables[base] = np.multiply.accumulate(factors)
    return table[:count]


def ngram_hashes(words: Ragged, n: int) -> Ragged:
    """Return the hashes of each row's n-grams: `max(words - n + 1, 0)` a row, none across two rows."""
    counts = np.maximum(words.lengths - n + 1, 0)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    total = len(words.values) - n + 1
    if total <= 0:
        return Ragged(np.zeros(0, dtype=np.uint64), offsets)
    grams = words.values[:total].copy()
    # N-grams that cross the end of a row are hashed too, and dropped below: cheaper than a loop over rows.
    for shift in range(1, n):
        grams *= np.uint64(_BASE)
        grams += words.values[shift : total + shift]
    ends = np.repeat(words.offsets[1:], words.lengths)[:total]
    return Ragged(scramble(grams[np.arange(total) + n <= ends]), offsets)


def repetition(words: Ragged, n: int = 10) -> NDArray[np.float64]:
    """Return `(rows,)`: the share of each row's n-grams that repeat an earlier one; 0 for rows shorter than n words."""
    grams = ngram_hashes(words, n)
    shares = np.zeros(len(words))
    for row, length in enumerate(grams.lengths):
        if length > 1:
            ordered = np.sort(grams[row])
            shares[row] = np.count_nonzero(ordered[1:] == ordered[:-1]) / length
    return shares
