"""Deduplication: of alike rows the earliest stays, unlike rows stay, and plain datasketch finds no more."""

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agentforge.data.cleaning.dedup import Signatures, estimate_jaccard, first_occurrences, near_duplicates, sign
from agentforge.data.cleaning.ngram_hashing import Ragged, ngram_hashes, word_hashes


def signatures(texts, ngram=5):
    return sign(word_hashes(texts), ngram, bands=14, rows=8)


def document(rng, length=150):
    return [f"w{rng.randrange(5000)}" for _ in range(length)]


def test_edited_copies_go_and_the_earliest_stays():
    rng = random.Random(1)
    originals = [document(rng) for _ in range(60)]
    texts = [" ".join(words) for words in originals] + [" ".join([*words[:-3], "x", "y", "z"]) for words in originals]
    repeats = near_duplicates(signatures(texts), 0.8)
    assert (repeats[:60] == -1).all()
    assert repeats[60:].tolist() == list(range(60))


def test_unlike_and_short_rows_stay():
    rng = random.Random(2)
    texts = [" ".join(document(rng)) for _ in range(200)] + ["hi there", "hi there", "", ""]
    assert (near_duplicates(signatures(texts), 0.8) == -1).all()


def test_order_of_batches_does_not_matter():
    texts = [" ".join(document(random.Random(seed % 7), 40)) for seed in range(30)]
    whole = signatures(texts)
    parts = Signatures.concatenate([signatures(texts[:11]), signatures(texts[11:12]), signatures(texts[12:])])
    assert (whole.bands == parts.bands).all() and (whole.values == parts.values).all()
    assert (near_duplicates(whole, 0.8) >= 0).sum() == 23


def test_estimate_is_unbiased():
    rng = random.Random(3)
    for jaccard in (0.3, 0.6, 0.8, 0.95):
        errors = []
        for _ in range(60):
            words = document(rng, 300)
            changed = words[: round(300 * 2 * jaccard / (1 + jaccard))]
            changed += document(rng, 300 - len(changed))
            texts = [" ".join(words), " ".join(changed)]
            first, second = (set(ngram_hashes(word_hashes([text]), 5).values.tolist()) for text in texts)
            true = len(first & second) / len(first | second)
            errors.append(estimate_jaccard(signatures(texts), 0, np.array([1]))[0] - true)
        assert abs(np.mean(errors)) < 4 * np.std(errors) / len(errors) ** 0.5 + 0.005
        assert np.std(errors) < 1.5 * (0.25 / 112) ** 0.5


def test_bands_find_pairs_as_often_as_ideal_permutations_do():
    rng, pairs, size, shared = np.random.default_rng(5), 3000, 200, 178
    jaccard = shared / (2 * size - shared)
    common = rng.integers(0, 2**64, (pairs, 1, shared), dtype=np.uint64).repeat(2, axis=1)
    own = rng.integers(0, 2**64, (pairs, 2, size - shared), dtype=np.uint64)
    hashes = np.concatenate([common, own], axis=2).ravel()
    bands = sign(Ragged(hashes, np.arange(2 * pairs + 1) * size), 1, bands=14, rows=8).bands
    found = (bands[0::2] == bands[1::2]).any(axis=1).mean()
    expected = 1 - (1 - jaccard**8) ** 14
    assert abs(found - expected) < 4 * (expected * (1 - expected) / pairs) ** 0.5


rows_with_copies = st.lists(st.integers(0, 12), min_size=1, max_size=25)


@settings(max_examples=60, deadline=None)
@given(rows_with_copies, st.integers(0, 30), st.floats(0.3, 1.0))
def test_every_dropped_row_is_like_an_earlier_kept_one(seeds, edits, threshold):
    texts = []
    for position, seed in enumerate(seeds):
        words = document(random.Random(seed), 60)
        words[: edits % 8] = [f"edit{position}"] * (edits % 8)
        texts.append(" ".join(words))
    own = signatures(texts)
    repeats = near_duplicates(own, threshold)
    for row, kept in enumerate(repeats.tolist()):
        if kept >= 0:
            assert kept < row and repeats[kept] == -1
            assert estimate_jaccard(own, row, np.array([kept]))[0] >= threshold
    # at least one of each cluster of copies stays: its earliest row is like no row of another cluster
    for seed in set(seeds):
        assert repeats[seeds.index(seed)] == -1


@given(st.lists(st.integers(0, 5), max_size=30))
def test_first_occurrences(values):
    keep = first_occurrences(np.array(values, dtype=np.uint64))
    assert [index for index in range(len(values)) if keep[index]] == sorted({values.index(value) for value in values})


def datasketch_drops(texts, threshold):
    """The same removal with datasketch: bands, then the estimated Jaccard, the earlier row stays."""
    from datasketch import MinHash, MinHashLSH

    index, kept, dropped = MinHashLSH(params=(14, 8), num_perm=112), {}, set()
    for row, text in enumerate(texts):
        words = text.split()
        minhash = MinHash(num_perm=112)
        minhash.update_batch([" ".join(words[i : i + 5]).encode() for i in range(len(words) - 4)])
        if any(kept[other].jaccard(minhash) >= threshold for other in index.query(minhash)):
            dropped.add(row)
        else:
            kept[row] = minhash
            index.insert(row, minhash)
    return dropped


def test_recall_is_that_of_plain_datasketch():
    rng = random.Random(4)
    pairs, texts = 400, []
    for _ in range(pairs):
        words = document(rng, 120)
        changed = list(words)
        for place in rng.sample(range(len(words)), 3):
            changed[place] = "changed"
        texts += [" ".join(words), " ".join(changed)]
    theirs = datasketch_drops(texts, 0.7)
    ours = set(np.flatnonzero(near_duplicates(signatures(texts), 0.7) >= 0).tolist())
    assert all(row % 2 for row in ours | theirs)
    share = len(theirs) / pairs
    assert abs(len(ours) - len(theirs)) < 4 * (2 * pairs * share * (1 - share)) ** 0.5
