"""Train or eval: decided by what a row asks, so that no other row, source, seed or order can move it."""

from __future__ import annotations

import numpy as np
import xxhash
from numpy.typing import NDArray

from agentforge.data.cleaning.ngram_hashing import Hashes
from agentforge.data.cleaning.repair_encoding import fold


def split_hash(key: str) -> int:
    """Return the 64-bit hash of a prompt or of a `split_key` value, however it is spaced or cased."""
    return xxhash.xxh3_64_intdigest(fold(key).encode("utf-8", "replace"))


def is_eval(hashes: Hashes, fraction: float) -> NDArray[np.bool_]:
    """Tell which rows are held out: those whose hash falls into the lowest ``fraction`` of all hashes.

    A row stays held out when the fraction grows.
    """
    # The hash is uniform, so this is a draw without a seed: recipes with the same fraction hold out the same questions.
    return hashes < np.uint64(fraction * 2**64)
