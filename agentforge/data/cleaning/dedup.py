"""Exact and near-duplicate removal: of rows that say the same, the earliest stays.

MinHash signatures with banding (Broder 1997; Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, ch. 3).
Signatures are made for a batch of rows with one pass of numpy a permutation, and each value is kept as one byte (b-bit
minwise hashing, Li and Koenig 2010, b = 8), so a row costs ``bands * rows`` bytes and 4 bytes a band in memory.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agentforge.data.cleaning.ngram_hashing import Hashes, Ragged, ngram_hashes, scramble

_COLLISION = 1 / 256
"""Chance that two different minima agree in the byte that is stored."""


@dataclass(frozen=True)
class Signatures:
    """What is kept of each row to find its near-duplicates.

    Attributes:
        bands: `(rows, bands)` a hash of each band of the signature. Two bands in 2^32 agree by chance, which costs one
            comparison of values.
        values: `(rows, bands * rows_per_band)` the lowest byte of each minimum.
        present: `(rows,)` False for rows with fewer words than one n-gram; they are never near-duplicates.
    """

    bands: NDArray[np.uint32]
    values: NDArray[np.uint8]
    present: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.bands)

    def select(self, keep: NDArray[np.bool_]) -> Signatures:
        """Return the signatures of some of the rows."""
        return Signatures(self.bands[keep], self.values[keep], self.present[keep])

    @staticmethod
    def concatenate(parts: list[Signatures]) -> Signatures:
        """Join the signatures of successive rows."""
        return Signatures(
            np.concatenate([part.bands for part in parts]),
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.present for part in parts]),
        )


def sign(words: Ragged, ngram: int, bands: int, rows: int) -> Signatures:
    """Return the MinHash signatures of a batch of rows, given as word hashes.

    A permutation is a multiplication by an odd number modulo 2^32 of the n-gram's hash, which is already uniform.
    """
    grams = ngram_hashes(words, ngram)
    present = grams.lengths > 0
    minima = np.empty((bands * rows, int(present.sum())), dtype=np.uint32)
    if minima.shape[1]:
        # Rows without an n-gram are left out: for an empty stretch reduceat returns the next row's value.
        starts = grams.offsets[:-1][present]
        upper = (grams.values >> np.uint64(32)).astype(np.uint32)
        products = np.empty_like(upper)
        for permutation, factor in enumerate(_odd_factors(bands * rows)):
            np.multiply(upper, factor, out=products)
            np.minimum.reduceat(products, starts, out=minima[permutation])
    values = np.zeros((len(words), bands * rows), dtype=np.uint8)
    values[present] = minima.T.astype(np.uint8)
    band_hashes = np.zeros((len(words), bands), dtype=np.uint32)
    band_hashes[present] = _band_hashes(minima, bands, rows)
    return Signatures(band_hashes, values, present)


def _odd_factors(count: int) -> NDArray[np.uint32]:
    return (scramble(np.arange(1, count + 1, dtype=np.uint64)) >> np.uint64(32)).astype(np.uint32) | np.uint32(1)


def _band_hashes(minima: NDArray[np.uint32], bands: int, rows: int) -> NDArray[np.uint32]:
    hashes = np.zeros((bands, minima.shape[1]), dtype=np.uint64)
    for row in range(rows):
        hashes = scramble(hashes + minima[row::rows][:bands].astype(np.uint64))
    return (hashes >> np.uint64(32)).astype(np.uint32).T


def first_occurrences(hashes: Hashes) -> NDArray[np.bool_]:
    """Return `(rows,)`: True where a hash appears for the first time. Equal hashes count as equal rows."""
    keep = np.zeros(len(hashes), dtype=bool)
    keep[np.unique(hashes, return_index=True)[1]] = True
    return keep


def estimate_jaccard(signatures: Signatures, row: int, others: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the estimated Jaccard similarity of ``row`` with each of ``others``.

    Stored bytes agree with probability ``J + (1 - J) / 256``; the estimate inverts that. Its standard deviation is
    ``sqrt(J (1 - J) / (bands * rows))``: 0.038 at 0.8 with 112 values.
    """
    agree = (signatures.values[others] == signatures.values[row]).mean(axis=1)
    return (agree - _COLLISION) / (1 - _COLLISION)


def near_duplicates(
    signatures: Signatures, threshold: float, among: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Find for each row the earlier row that makes it redundant.

    Rows are taken in order. A row is dropped if an earlier row that is kept shares a band with it and has an estimated
    Jaccard of at least ``threshold`` with it. So every dropped row is similar to a kept one, and a chain of ever less
    similar rows is not dropped as a whole.

    Args:
        among: `(rows,)` the rows that are compared, None for all.

    Returns:
        `(rows,)`: index of the kept row it repeats, -1 where the row is kept.
    """
    repeats = np.full(len(signatures), -1, dtype=np.int64)
    rows, buckets = _shared_buckets(signatures, among)
    kept: defaultdict[int, list[int]] = defaultdict(list)
    position = 0
    while position < len(rows):
        # The pairs are sorted by row, so a row's buckets stand together.
        end = position + 1
        while end < len(rows) and rows[end] == rows[position]:
            end += 1
        row, its_buckets = int(rows[position]), buckets[position:end].tolist()
        position = end
        candidates = sorted({earlier for bucket in its_buckets for earlier in kept[bucket]})
        if candidates:
            others = np.array(candidates, dtype=np.int64)
            similar = others[estimate_jaccard(signatures, row, others) >= threshold]
            if len(similar):
                # The row enters no bucket, so that later rows are compared with kept rows only.
                repeats[row] = similar[0]
                continue
        for bucket in its_buckets:
            kept[bucket].append(row)
    return repeats


def _shared_buckets(
    signatures: Signatures, among: NDArray[np.bool_] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the (row, bucket) pairs of all buckets with at least two rows, by row. Most rows share none."""
    present = np.flatnonzero(signatures.present if among is None else signatures.present & among)
    rows: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
    buckets: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
    first = 0
    for band in range(signatures.bands.shape[1]):
        hashes = signatures.bands[present, band]
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        starts = np.concatenate([[True], ordered[1:] != ordered[:-1]]) if len(ordered) else np.zeros(0, dtype=bool)
        # Sorted, equal hashes are neighbours: each run is a bucket, and a run of one has nothing to compare.
        number = np.cumsum(starts) - 1
        shared = np.bincount(number)[number] > 1 if len(number) else starts
        rows.append(present[order[shared]])
        buckets.append(number[shared] + first)
        # Buckets are numbered on from band to band, or rows of different bands would meet in one.
        first += len(ordered)
    all_rows, all_buckets = np.concatenate(rows), np.concatenate(buckets)
    by_row = np.argsort(all_rows, kind="stable")
    return all_rows[by_row], all_buckets[by_row]
