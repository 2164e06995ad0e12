"""Word hashes: the same words hash alike wherever they stand, and n-grams never cross a row."""

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agentforge.data.cleaning import ngram_hashing as module
from agentforge.data.cleaning.ngram_hashing import ngram_hashes, repetition, word_hashes

ascii_words = st.lists(st.text("abcXYZ019_", min_size=1, max_size=12), max_size=12)
separators = st.sampled_from([" ", "\n", ", ", " -- ", "\t", "('"])


def reference_ngrams(texts, n):
    """The n-grams as tuples of words, by a loop."""
    split = [re.findall(r"\w+", text.lower()) for text in texts]
    return [[tuple(own[i : i + n]) for i in range(len(own) - n + 1)] for own in split]


@given(st.lists(st.tuples(ascii_words, separators), max_size=6), st.integers(1, 5))
def test_ngram_hashes_are_equal_exactly_where_the_ngrams_are(rows, n):
    texts = [separator.join(own) for own, separator in rows]
    grams = ngram_hashes(word_hashes(texts), n)
    expected = reference_ngrams(texts, n)
    assert grams.lengths.tolist() == [len(own) for own in expected]
    flat = [gram for own in expected for gram in own]
    by_hash = dict(zip(grams.values.tolist(), flat, strict=True))
    assert len(by_hash) == len(set(flat))
    assert [by_hash[value] for value in grams.values.tolist()] == flat


def test_words_of_a_batch_hash_as_they_do_alone(monkeypatch):
    monkeypatch.setattr(module, "_BATCH_BYTES", 40)
    texts = ["one two", "", "three " * 30, "two one", "ÉTÉ été", "日本語", "“two”"]
    together = word_hashes(texts)
    for row, text in enumerate(texts):
        assert together[row].tolist() == word_hashes([text]).values.tolist()
    assert together[0][::-1].tolist() == together[3].tolist()
    assert len(set(together[4].tolist())) == 1
    assert together.lengths.tolist() == [2, 0, 30, 2, 2, 3, 1]
    assert together[6][0] == together[0][1]


def test_repetition_is_the_share_of_ngrams_that_stood_before():
    texts = ["spam " * 110, " ".join(f"w{i}" for i in range(100)), "too short", ""]
    assert np.allclose(repetition(word_hashes(texts), 10), [100 / 101, 0, 0, 0])
