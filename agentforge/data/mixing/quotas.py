"""How much of each source, and which of its rows: weights, caps on repeats, seeded order.

Amounts are in rows or in tokens. A source gets ``weight / sum of weights`` of the mix. If that is more than
``max_repeats`` times what the source has, it gives just that and the others share the rest, in proportion to their
weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agentforge.data.cleaning.ngram_hashing import Hashes, scramble


@dataclass(frozen=True)
class Allocation:
    """What each source gives.

    Attributes:
        quotas: rows or tokens a source.
        capped: sources that would have needed more repeats than they may have.
        limited_by: the source that set the size, if the recipe names none.
    """

    quotas: list[int]
    capped: list[int]
    limited_by: int | None


def allocate(
    available: Sequence[int], weights: Sequence[float], max_repeats: Sequence[float], size: int | None
) -> Allocation:
    """Share out a mix.

    Args:
        available: rows or tokens that each source has.
        weights: any positive numbers; they are normalised over the sources that have something.
        max_repeats: how often a source's rows may be used.
        size: rows or tokens of the mix. None: all weights hold exactly, and the mix ends where a source reaches its
            `max_repeats`, or where every row of every source has been used once.
    """
    active = [source for source, amount in enumerate(available) if amount > 0]
    limited_by = None
    if size is None:
        size, limited_by = _natural_size(available, weights, max_repeats, active)
    shares = [0.0] * len(available)
    caps = [amount * repeats for amount, repeats in zip(available, max_repeats, strict=True)]
    capped: list[int] = []
    free, rest = list(active), float(size)
    # Example: 100 rows at weights 1 : 1 : 2, and the first source has only 10. It gives 10, and the others share 90 as
    # 30 and 60. Their larger shares may now exceed what another source has, hence the loop.
    while free:
        total = sum(weights[source] for source in free)
        # tolerance: the source that limits the natural size stands exactly at its cap
        over = [source for source in free if rest * weights[source] / total > caps[source] * (1 + 1e-9)]
        if not over:
            for source in free:
                shares[source] = rest * weights[source] / total
            break
        for source in over:
            shares[source] = caps[source]
        capped += over
        rest = size - sum(shares[source] for source in capped)
        free = [source for source in free if source not in over]
    return Allocation(_round_to_sum(shares), sorted(capped), limited_by)


def _natural_size(
    available: Sequence[int], weights: Sequence[float], max_repeats: Sequence[float], active: Sequence[int]
) -> tuple[int, int | None]:
    if not active:
        return 0, None
    total = sum(weights[source] for source in active)
    # The size of the mix when the last source has given all its rows once, and when the first has reached its
    # max_repeats.
    once = max(available[source] * total / weights[source] for source in active)
    at_cap = {source: max_repeats[source] * available[source] * total / weights[source] for source in active}
    source = min(at_cap, key=lambda s: at_cap[s])
    # rounded down, so that no source is asked for a part of a row more than it has
    return (int(at_cap[source] + 1e-6), source) if at_cap[source] < once else (int(once + 1e-6), None)


def _round_to_sum(shares: Sequence[float]) -> list[int]:
    """Round to whole numbers with the same sum: the largest fractions are rounded up, the earlier first."""
    whole = [int(share + 1e-6) for share in shares]
    missing = round(sum(shares)) - sum(whole)
    by_fraction = sorted(range(len(shares)), key=lambda source: whole[source] - shares[source])
    for source in by_fraction[: max(missing, 0)]:
        whole[source] += 1
    return whole


@dataclass(frozen=True)
class RowChoice:
    """Chosen rows of one source: `rows` are indices, `copies` tells which copy of the row each is (0, 1, ...)."""

    rows: NDArray[np.int64]
    copies: NDArray[np.int64]


def select(keys: Hashes, amounts: NDArray[np.int64], quota: int, seed: int) -> RowChoice:
    """Choose ``quota`` rows (or tokens) of a source: all rows as often as they fit, and a seeded part for the rest.

    The part is the first rows in the order of their hashed keys, so it hardly changes when the source grows.

    Args:
        keys: `(rows,)` a hash of each row's content.
        amounts: `(rows,)` what each row counts: 1, or its tokens.
        quota: sum of the amounts that is wanted; it is met exactly for rows, to the nearest row for tokens.
        seed: another seed, another part.
    """
    order = np.argsort(scramble(keys ^ _seed_hash(seed)), kind="stable")
    total = int(amounts.sum())
    if total == 0 or quota == 0:
        return RowChoice(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    # 250 rows from a source of 100: all of them twice, and the first 50 in hashed order a third time.
    full, rest = divmod(quota, total)
    reached = np.cumsum(amounts[order])
    count = int(np.searchsorted(reached, rest, side="right"))
    if count < len(order):
        # The row that crosses the quota is taken if that brings the sum closer to it.
        below = int(reached[count - 1]) if count else 0
        count += int(2 * (rest - below) > amounts[order[count]])
    chosen = np.concatenate([np.tile(order, full), order[:count]])
    copies = np.concatenate([np.repeat(np.arange(full), len(order)), np.full(count, full)])
    return RowChoice(chosen.astype(np.int64), copies.astype(np.int64))


def shuffled(keys: Hashes, copies: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return `(rows,)`: the order of the mix, by hashed key and copy, so that sources and copies are interleaved."""
    return np.argsort(scramble(scramble(keys ^ _seed_hash(seed + 1)) + copies.astype(np.uint64)), kind="stable")


def _seed_hash(seed: int) -> np.uint64:
    return np.uint64(scramble(np.array([seed % 2**64], dtype=np.uint64))[0])
