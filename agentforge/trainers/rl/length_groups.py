"""Rows of like length together: a batch of short and long episodes is not padded to the longest.

Episodes of one rollout may be sixty tokens or a thousand. TRL pads all of them to the longest; here the model sees them
in groups, each without the columns that are padding in all its rows, and what comes out is put back in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import pad

SPREAD = 1.5
"""How much longer a group's longest row may be than its shortest."""
SMALLEST = 8
"""Rows below which a group is not worth a pass of its own."""


class Group(NamedTuple):
    """Rows of a batch, and the columns in which any of them has a token; ``kept`` of the columns are completions'."""

    rows: torch.Tensor
    columns: slice
    kept: int


class LengthGroups:
    """The groups of a batch of prompts, padded on the left, and completions, padded on the right.

    Args:
        mask: `(B, L)`, 1 where a token is.
        length: how many of the L columns are completions'.
        one: all rows in one group, only without the columns that are padding in all of them.
        equal_prompts: a group only has prompts of one length, so that no row is padded on the left: for models whose
            logits depend on that.
    """

    def __init__(self, mask: torch.Tensor, length: int, *, one: bool = False, equal_prompts: bool = False) -> None:
        self.length = length
        tokens = mask.sum(1)
        prompts = mask[:, : mask.shape[1] - length].sum(1) if equal_prompts else torch.zeros_like(tokens)
        self.order = torch.argsort(prompts * (mask.shape[1] + 1) + tokens, stable=True)
        runs = torch.unique_consecutive(prompts[self.order], return_counts=True)[1].tolist()
        parts = tokens[self.order].split(runs)
        sizes = [mask.shape[0]] if one else [size for part in parts for size in _sizes(part.tolist())]
        self.groups = [_group(mask, rows, length) for rows in self.order.split(sizes)]

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def join(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return `(B, length)` of each group's `(rows, kept)`, 0 in the columns that it was spared."""
        padded = [pad(part, (0, self.length - part.shape[1])) for part in parts]
        return torch.cat(padded)[torch.argsort(self.order)]


def _sizes(lengths: Sequence[int]) -> list[int]:
    """Return how many rows each group has, of rows sorted by their length."""
    sizes, first = [0], 0
    for row, length in enumerate(lengths):
        if length > SPREAD * lengths[first] and sizes[-1] >= SMALLEST:
            sizes.append(0)
            first = row
        sizes[-1] += 1
    if len(sizes) > 1 and sizes[-1] < SMALLEST:
        last = sizes.pop()
        sizes[-1] += last
    return sizes


def _group(mask: torch.Tensor, rows: torch.Tensor, length: int) -> Group:
    used = mask[rows].any(0).nonzero().flatten()
    prompt = mask.shape[1] - length
    first = int(used[0]) if len(used) else 0
    # a column of either is left even where all is padding: shapes of nothing would reach the model
    first, last = min(first, prompt - 1), max(int(used[-1]) if len(used) else 0, prompt)
    return Group(rows, slice(first, last + 1), last + 1 - prompt)
