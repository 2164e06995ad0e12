"""Packed statistics are those of TRL's own packing."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agentforge.data.packing_fill import packing


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 32), min_size=1, max_size=80), st.sampled_from([7, 1000]))
def test_packs_as_trl_does(lengths, window):
    from datasets import Dataset
    from trl import pack_dataset

    rows = Dataset.from_dict({"input_ids": [[0] * length for length in lengths]})
    packed = pack_dataset(rows, 32, "bfd", {"batch_size": window, "keep_in_memory": True})
    ours = packing(np.array(lengths), 32, window)
    assert ours.rows == len(packed)
    assert ours.fill == sum(lengths) / (32 * len(packed))


def test_no_rows():
    assert packing(np.zeros(0, dtype=np.int64), 32).fill == 0.0
