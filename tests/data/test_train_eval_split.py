"""The split: decided by the prompt alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agentforge.data.train_eval_split import is_eval, split_hash


def sides(prompts, fraction):
    return is_eval(np.array([split_hash(prompt) for prompt in prompts], dtype=np.uint64), fraction)


@given(st.lists(st.text(), max_size=30), st.lists(st.text(), max_size=30), st.floats(0, 0.99))
def test_more_rows_move_none(prompts, more, fraction):
    assert sides(prompts + more, fraction)[: len(prompts)].tolist() == sides(prompts, fraction).tolist()
    assert sides(more + prompts, fraction)[len(more) :].tolist() == sides(prompts, fraction).tolist()


@given(st.lists(st.text(), max_size=30), st.floats(0, 0.49), st.floats(0, 0.5))
def test_held_out_rows_stay_held_out_when_the_fraction_grows(prompts, fraction, more):
    assert not (sides(prompts, fraction) & ~sides(prompts, fraction + more)).any()


def test_share_and_spelling():
    prompts = [f"What is {number} plus {number + 1}?" for number in range(20_000)]
    share = sides(prompts, 0.05).mean()
    assert abs(share - 0.05) < 4 * (0.05 * 0.95 / 20_000) ** 0.5
    assert split_hash("List  files\n") == split_hash("list files") != split_hash("list file")
    assert not sides(prompts, 0.0).any()
