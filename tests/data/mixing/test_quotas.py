"""The mix: weights, caps, and a choice that barely moves when a source grows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentforge.data.mixing.quotas import allocate, select, shuffled

sources = st.lists(st.tuples(st.integers(1, 10_000), st.floats(0.01, 10), st.floats(0.5, 8)), min_size=1, max_size=6)


def keys(count, start=0):
    return np.random.default_rng(7).integers(0, 2**64, start + count, dtype=np.uint64)[start:]


@given(sources, st.integers(1, 50_000))
def test_weights_hold_and_caps_hold(lines, size):
    available, weights, repeats = (list(column) for column in zip(*lines, strict=True))
    given_out = allocate(available, weights, repeats, size)
    caps = [amount * repeat for amount, repeat in zip(available, repeats, strict=True)]
    assert all(quota <= cap + 1 for quota, cap in zip(given_out.quotas, caps, strict=True))
    assert sum(given_out.quotas) == pytest.approx(min(size, sum(caps)), abs=1)
    # a capped source gives all it may; the others give more for their weight, all of them equally much
    for index in given_out.capped:
        assert given_out.quotas[index] == pytest.approx(caps[index], abs=1)
    free = [index for index in range(len(lines)) if index not in given_out.capped]
    for a in range(len(lines)):
        for b in free:
            rounding = 2 / weights[a] + 2 / weights[b]
            assert given_out.quotas[a] / weights[a] <= given_out.quotas[b] / weights[b] + rounding


@given(sources)
def test_without_a_size_weights_are_exact_and_repeats_allowed(lines):
    available, weights, repeats = (list(column) for column in zip(*lines, strict=True))
    given_out = allocate(available, weights, repeats, None)
    total, share = sum(given_out.quotas), [weight / sum(weights) for weight in weights]
    assert not given_out.capped
    assert all(abs(quota - total * part) <= 1.01 for quota, part in zip(given_out.quotas, share, strict=True))
    epochs = [quota / amount for quota, amount in zip(given_out.quotas, available, strict=True)]
    limit = given_out.limited_by
    if limit is None:
        assert min(epochs) == pytest.approx(1, abs=1 / min(available))
    else:
        assert given_out.quotas[limit] == pytest.approx(available[limit] * repeats[limit], abs=2)


def test_the_apothecary_of_89_rows_is_capped_and_the_others_fill_up():
    available = [478_000, 207_000, 22_600, 14_600, 89, 45_000]
    weights = [0.32, 0.18, 0.15, 0.10, 0.10, 0.15]
    given_out = allocate(available, weights, [4.0] * 6, 200_000)
    assert given_out.capped == [4] and given_out.quotas[4] == 4 * 89
    assert sum(given_out.quotas) == 200_000
    assert given_out.quotas[0] == pytest.approx((200_000 - 356) * 0.32 / 0.9, abs=1)


def test_a_single_source_is_used_once():
    assert allocate([300], [1.0], [4.0], None).quotas == [300]


def test_sources_without_rows_leave_their_weight_to_the_others():
    assert allocate([0, 50], [0.9, 0.1], [4.0, 4.0], 100).quotas == [0, 100]


@given(st.integers(1, 60), st.integers(0, 300), st.integers(0, 5))
def test_every_row_is_used_equally_often_but_for_one(count, quota, seed):
    selection = select(keys(count), np.ones(count, dtype=np.int64), quota, seed)
    used = np.bincount(selection.rows, minlength=count)
    assert len(selection.rows) == quota and used.max() - used.min() <= 1
    assert len(set(zip(selection.rows.tolist(), selection.copies.tolist(), strict=True))) == quota


@given(st.lists(st.integers(1, 500), min_size=1, max_size=40), st.integers(0, 20_000), st.integers(0, 5))
def test_tokens_are_met_to_the_nearest_row(amounts, quota, seed):
    tokens = np.array(amounts)
    selection = select(keys(len(tokens)), tokens, quota, seed)
    assert abs(int(tokens[selection.rows].sum()) - quota) <= (max(amounts) + 1) / 2


def test_choice_hardly_moves_when_a_source_grows_and_moves_with_the_seed():
    small, large = keys(1000), keys(1100)
    ones = np.ones(1100, dtype=np.int64)
    before = set(select(small, ones[:1000], 500, 1).rows.tolist())
    after = set(select(large, ones, 500, 1).rows.tolist())
    assert {row for row in after if row < 1000} <= before
    assert len(before & after) > 420
    assert len(before & set(select(small, ones[:1000], 500, 2).rows.tolist())) < 320


def test_order_interleaves_sources_and_copies():
    own = np.tile(keys(200), 3)
    copies = np.repeat(np.arange(3), 200)
    order = shuffled(own, copies, 0)
    assert sorted(order.tolist()) == list(range(600))
    assert abs(order[:300].mean() - order[300:].mean()) < 90
    assert shuffled(own, copies, 1).tolist() != order.tolist()
