"""How many clauses a variable make a random formula as likely satisfiable as not.

For finitely many variables that is more than the threshold of infinitely many, and far from 4.2 unless k is 3; so it
is looked up in a measured table (`sat_calibration` makes it) and interpolated in 1/n towards the limit.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from functools import cache
from math import log
from pathlib import Path

from agentforge.errors import UserError

TABLE = Path(__file__).with_name("thresholds.json")
LIMITS = {2: 1.0, 3: 4.267, 4: 9.931, 5: 21.117, 6: 43.37, 7: 87.79}
"""Thresholds of infinitely many variables: k = 2 exactly (Goerdt 1996), then Mertens, Mezard and Zecchina 2006."""


def limit(k: int) -> float:
    """Return the threshold of infinitely many variables; above k = 7 by its expansion, 2^k ln 2 - (1 + ln 2) / 2."""
    return LIMITS.get(k, 2**k * log(2) - (1 + log(2)) / 2)


@cache
def measured() -> dict[int, list[tuple[int, float]]]:
    """Return the table: k to pairs (variables, ratio), by variables."""
    raw = json.loads(TABLE.read_text(encoding="utf-8"))["ratios"]
    return {int(k): sorted((int(n), ratio) for n, ratio in row.items()) for k, row in raw.items()}


def threshold_ratio(n_vars: int, k: int) -> float:
    """Return the ratio of clauses to variables at which half of all formulas are satisfiable.

    Raises:
        UserError: the table has no such k, or no so few variables.
    """
    row = measured().get(k)
    if row is None:
        known = ", ".join(map(str, measured()))
        raise UserError(f"affine:sat: ratio 'auto' is measured for k = {known}, not {k}; give ratio as a number")
    sizes = [n for n, _ in row]
    if n_vars < sizes[0]:
        raise UserError(f"affine:sat: ratio 'auto' needs at least {sizes[0]} variables for k = {k}")
    # For 17 variables between the measured 15 and 20: the straight line in 1/n between them.
    place = bisect_left(sizes, n_vars)
    if place < len(row) and sizes[place] == n_vars:
        return row[place][1]
    n_before, before = row[place - 1]
    inverse_after, after = (1 / row[place][0], row[place][1]) if place < len(row) else (0.0, limit(k))
    # 0 at the size below, 1 at the size above; above the largest size the next one is infinity, where 1/n is 0.
    weight = (1 / n_before - 1 / n_vars) / (1 / n_before - inverse_after)
    return before + weight * (after - before)
