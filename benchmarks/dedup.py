"""Near-duplicate removal against plain datasketch: the same texts, n-grams, bands, threshold and order.

Texts of 40 to 400 words; one in five is an edited copy of an earlier one. Both sides split words, make 112 minima, look
up 14 bands of 8, confirm a pair by its estimated Jaccard, and drop the later row. A planted copy counts as
near-duplicate if its true Jaccard is at least the threshold; a drop is false if the row has no such earlier row.

    python -m benchmarks.dedup [--rows 5000]
"""

from __future__ import annotations

import argparse
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from datasketch import MinHash, MinHashLSH

from agentforge.data.cleaning.dedup import near_duplicates, sign
from agentforge.data.cleaning.ngram_hashing import word_hashes
from benchmarks.prepare import words_of

NGRAM, BANDS, BAND_ROWS, THRESHOLD = 5, 14, 8, 0.8
COPIES = 0.2


@dataclass(frozen=True)
class Corpus:
    """Texts, and for each the earlier text that it is a copy of (-1: none) with their true Jaccard."""

    texts: list[str]
    original: list[int]
    jaccard: list[float]


def shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1)}


def corpus(rows: int, seed: int = 0) -> Corpus:
    rng = random.Random(seed)
    vocabulary = words_of(rng)
    texts: list[str] = []
    original: list[int] = []
    jaccard: list[float] = []
    originals: list[int] = []
    for row in range(rows):
        if originals and rng.random() < COPIES:
            source = rng.choice(originals)
            words = texts[source].split()
            for place in rng.sample(range(len(words)), max(1, round(len(words) * rng.uniform(0.002, 0.04)))):
                words[place] = rng.choice(vocabulary)
            texts.append(" ".join(words))
            ours, theirs = shingles(texts[source]), shingles(texts[-1])
            original.append(source)
            jaccard.append(len(ours & theirs) / len(ours | theirs))
        else:
            texts.append(" ".join(rng.choices(vocabulary, k=rng.randint(40, 400))))
            original.append(-1)
            jaccard.append(0.0)
            originals.append(row)
    return Corpus(texts, original, jaccard)


def ours(texts: list[str]) -> set[int]:
    signatures = sign(word_hashes(texts), NGRAM, BANDS, BAND_ROWS)
    return set(np.flatnonzero(near_duplicates(signatures, THRESHOLD) >= 0).tolist())


def plain_datasketch(texts: list[str]) -> set[int]:
    index = MinHashLSH(params=(BANDS, BAND_ROWS), num_perm=BANDS * BAND_ROWS)
    kept: dict[int, MinHash] = {}
    dropped: set[int] = set()
    for row, text in enumerate(texts):
        words = re.findall(r"\w+", text.lower())
        minhash = MinHash(num_perm=BANDS * BAND_ROWS)
        minhash.update_batch([" ".join(words[i : i + NGRAM]).encode() for i in range(len(words) - NGRAM + 1)])
        if any(kept[other].jaccard(minhash) >= THRESHOLD for other in index.query(minhash)):
            dropped.add(row)
        else:
            kept[row] = minhash
            index.insert(row, minhash, check_duplication=False)
    return dropped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000)
    given = parser.parse_args()
    made = corpus(given.rows)
    alike = {row for row, value in enumerate(made.jaccard) if value >= THRESHOLD}
    print(
        f"{given.rows:,} texts, {len(alike):,} of them with a true Jaccard of at least {THRESHOLD} to an earlier one.\n"
    )
    print("| | texts per CPU-second | recall | false drops | of unrelated texts |")
    print("|---|--:|--:|--:|--:|")
    speeds: list[float] = []
    sides: list[tuple[str, Callable[[list[str]], set[int]]]] = [("datasketch", plain_datasketch), ("agentforge", ours)]
    for name, side in sides:
        side(made.texts[:50])
        started = time.process_time()
        dropped = side(made.texts)
        speeds.append(len(made.texts) / (time.process_time() - started))
        unrelated = sum(made.original[row] < 0 for row in dropped)
        recall, false = len(dropped & alike) / len(alike), len(dropped - alike)
        print(f"| {name} | {speeds[-1]:,.0f} | {recall:.3f} | {false} | {unrelated} |")
    error = (0.92 * 0.08 / len(alike)) ** 0.5
    print(f"\n{speeds[1] / speeds[0]:.1f} times as fast. The standard error of a recall is {error:.3f}.")
    print(f"False drops are copies whose true Jaccard lies just below {THRESHOLD}.")


if __name__ == "__main__":
    main()
