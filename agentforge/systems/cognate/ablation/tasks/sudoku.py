"""4 x 4 Sudoku: the puzzle as a prefix, then 16 positions that answer for one cell each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import permutations, product
from typing import ClassVar

import torch
from torch import Tensor

from agentforge.systems.cognate.ablation.tasks.base import TEST_SEED, UNLABELLED, Batch, seeded

CELLS = 16
BLANK, SOLVE = 0, 5
"""Tokens beside the digits 1 to 4: an empty cell, and the sign between puzzle and solution."""


def _peers(cell: int) -> list[int]:
    row, column = divmod(cell, 4)

    def sees(other: int) -> bool:
        r, c = divmod(other, 4)
        return other != cell and (r == row or c == column or (r // 2 == row // 2 and c // 2 == column // 2))

    return [other for other in range(CELLS) if sees(other)]


PEERS = torch.tensor([_peers(cell) for cell in range(CELLS)])
"""(16, 7): the cells that share a row, a column or a box with each cell."""


@cache
def all_grids() -> Tensor:
    """Return the 288 solved grids, (288, 16), digits 1 to 4."""
    rows = list(permutations(range(1, 5)))
    grids = torch.tensor([sum(four, ()) for four in product(rows, repeat=4)])
    clash = (grids[:, :, None] == grids[:, PEERS]).any(-1).any(-1)
    return grids[~clash]


@dataclass(frozen=True)
class Sudoku:
    """Puzzles with one solution and ``given`` digits.

    Solutions are split, not puzzles: with 288 grids in all a model could know every grid by heart and only look up
    which one fits. The grids of the test are never seen solved.
    """

    given: int = 6
    test_grids: int = 48
    test_rows: int = 512
    name: ClassVar[str] = "4x4 Sudoku"
    vocab_size: ClassVar[int] = 6
    chance: ClassVar[float] = 1 / 4
    trivial_is: ClassVar[str] = "a guess among digits not yet used in the row, the column or the box"

    @cached_property
    def _split(self) -> tuple[Tensor, Tensor]:
        grids = all_grids()
        order = torch.randperm(len(grids), generator=seeded(TEST_SEED))
        return grids[order[self.test_grids :]], grids[order[: self.test_grids]]

    @cached_property
    def trivial(self) -> float:
        test = self.test_batches()["held out"]
        possible = candidates(test)[test.scored[:, CELLS + 1 :]]
        # What is left is always the true digit and perhaps others, so a uniform guess is right once in that many.
        return float((1 / possible).mean())

    def train_batch(self, rows: int, generator: torch.Generator) -> Batch:
        return self._puzzles(self._split[0], rows, generator)

    def test_batches(self) -> dict[str, Batch]:
        return {"held out": self._puzzles(self._split[1], self.test_rows, seeded(TEST_SEED))}

    def token(self, token: int) -> str:
        return {BLANK: "_", SOLVE: "="}.get(token, str(token))

    def _puzzles(self, solutions: Tensor, rows: int, generator: torch.Generator) -> Batch:
        """Return ``puzzle SOLVE blank ... blank``: each answer is asked for, and only those of empty cells are scored.

        The solution is not read while it is written. If it were, most cells would follow from those before them by
        crossing off digits: 92 % of the cells without any search. So every cell is an answer to the whole puzzle, and
        what a network finds out about the other cells has to go through its layers.
        """
        solved, shown = self._unique(solutions, rows, generator)
        sign = torch.full((rows, 1), SOLVE)
        asked = torch.full((rows, CELLS), BLANK)
        input_ids = torch.cat([torch.where(shown, solved, BLANK), sign, asked], 1)
        labels = torch.full_like(input_ids, UNLABELLED)
        labels[:, CELLS + 1 :] = solved
        scored = torch.cat([torch.zeros(rows, CELLS + 1, dtype=torch.bool), ~shown], 1)
        return Batch(input_ids, labels, scored)

    def _unique(self, solutions: Tensor, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        solved: list[Tensor] = []
        shown: list[Tensor] = []
        while sum(map(len, solved)) < rows:
            grid = solutions[torch.randint(len(solutions), (2 * rows,), generator=generator)]
            visible = torch.rand(2 * rows, CELLS, generator=generator).argsort(1).argsort(1) < self.given
            # All 288 grids are at hand, so uniqueness is counted, not searched for.
            agreeing = ((grid[:, None] == all_grids()) | ~visible[:, None]).all(-1).sum(1)
            solved.append(grid[agreeing == 1])
            shown.append(visible[agreeing == 1])
        return torch.cat(solved)[:rows], torch.cat(shown)[:rows]


def candidates(batch: Batch) -> Tensor:
    """Return (B, 16): how many digits are not used among the given peers of each cell."""
    peers = batch.input_ids[:, :CELLS][:, PEERS]
    used = torch.stack([(peers == digit).any(-1) for digit in range(1, 5)], -1)
    return 4 - used.sum(-1)
