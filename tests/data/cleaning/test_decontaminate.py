"""Decontamination: one shared 13-gram is enough, twelve words are not."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agentforge.data.cleaning.decontaminate import collect_evaluation
from agentforge.data.cleaning.ngram_hashing import word_hashes
from agentforge.data.train_eval_split import split_hash

N = 13
words = st.lists(st.sampled_from([f"word{i}" for i in range(40)]), min_size=N, max_size=40)


def contaminated(evaluation, texts, prompts=None):
    hashes = np.array([split_hash(text) for text in prompts or texts], dtype=np.uint64)
    return evaluation.contaminated(word_hashes(texts), hashes).tolist()


@given(words, words, st.integers(0, 30), st.integers(1, N), st.integers(0, 20))
def test_catches_a_shared_ngram_and_only_then(question, other, start, length, place):
    evaluation = collect_evaluation([{"text": " ".join(question)}], N)
    piece = question[start % len(question) :][:length]
    row = [*(f"x{i}" for i in range(place)), *piece, *(f"y{word}" for word in other)]
    assert contaminated(evaluation, [" ".join(row)]) == [len(piece) == N]
    shared = {tuple(other[i : i + N]) for i in range(len(other) - N + 1)} & {
        tuple(question[i : i + N]) for i in range(len(question) - N + 1)
    }
    assert contaminated(evaluation, [" ".join(other)]) == [bool(shared)]


def test_reads_conversations_whatever_their_case_and_punctuation():
    question = "Natalia sold clips to 48 of her friends in April, and then she sold half as many in May."
    row = {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "72"}]}
    evaluation = collect_evaluation([row], N)
    texts = [f"Q: {question.upper()} Answer?", question.replace("April", "June")]
    assert contaminated(evaluation, texts) == [True, False]


def test_prompts_shorter_than_an_ngram_are_compared_whole():
    row = {
        "messages": [{"role": "user", "content": "List running containers"}, {"role": "assistant", "content": "None."}]
    }
    evaluation = collect_evaluation([row], N)
    texts = ["list  running CONTAINERS", "list running containers please"]
    assert contaminated(evaluation, texts) == [True, False]


def test_nothing_to_compare_with():
    assert contaminated(collect_evaluation([], N), ["a b c", ""]) == [False, False]
