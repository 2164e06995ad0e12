"""Which data source each training row is drawn from, as training goes on: a curriculum over sources.

The loader is never rebuilt. A sampler decides row by row, from the seed and the row's place in the whole run alone, so
a resumed run, which skips what it has seen, draws what the uninterrupted run would have drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from datasets import Dataset, concatenate_datasets
from numpy.typing import NDArray
from torch.utils.data import Sampler

from agentforge.errors import UserError

CHECKED = 1000
"""Places of a run at which a schedule is looked at before it begins."""


class SourceSchedule(Protocol):
    """Shares of the sources at any point of a training."""

    def shares(self, progress: float) -> Mapping[str, float]:
        """Return the share of each source by its name in `data.mix`; they need not add up to 1.

        Args:
            progress: share of the training that is over, in [0, 1).
        """


def rows_by_source(dataset: Dataset, make: Callable[[Dataset, str], Dataset]) -> tuple[Dataset, list[str]]:
    """Return training rows none of which mixes sources, and the source of each.

    Args:
        dataset: prepared rows with their `source`.
        make: labels and packs rows; it is given a name for what it stores.
    """
    of_each = np.array(dataset["source"])
    names = sorted(set(of_each.tolist()))
    parts = [make(dataset.select(np.flatnonzero(of_each == name)), f"train-{n}") for n, name in enumerate(names)]
    sources = [name for name, part in zip(names, parts, strict=True) for _ in range(len(part))]
    return concatenate_datasets(parts), sources


class ScheduledSampler(Sampler[int]):
    """Draws row numbers: the source by its share at that point, then the source's next row in a shuffled order.

    A source that is used up starts over in another order.
    """

    def __init__(self, schedule: SourceSchedule, sources: Sequence[str], rows: int, seed: int) -> None:
        """Check that every source of the schedule has rows.

        Args:
            schedule: gives the shares.
            sources: of each training row.
            rows: drawn in the whole training, over all processes.
            seed: of the draws.

        Raises:
            UserError: a source of the schedule has no rows, or none of it has a share.
        """
        self.schedule, self.rows, self.seed = schedule, rows, seed
        names = np.array(sources)
        self._places = {str(name): np.flatnonzero(names == name) for name in np.unique(names)}
        # Beginning, middle and end: a source without rows should stop the run here, and not hours later.
        # Looked through before the training, so that a source without rows does not stop it half-way.
        for place in range(0, rows, max(rows // CHECKED, 1)):
            self._checked(schedule.shares(place / rows))

    def _checked(self, shares: Mapping[str, float]) -> tuple[list[str], NDArray[np.float64]]:
        names = [name for name, share in shares.items() if share > 0]
        if missing := [name for name in names if name not in self._places]:
            known = ", ".join(self._places)
            raise UserError(f"the data schedule wants rows of '{missing[0]}', but the prepared data have: {known}")
        if not names:
            raise UserError("the data schedule gives no source a share")
        weights = np.array([shares[name] for name in names], dtype=np.float64)
        return names, weights / weights.sum()

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        # Always from the beginning: a resumed loader runs through the rows that it skips, so the draws stay in step.
        draw = np.random.default_rng(self.seed)
        orders = {name: self._order(name) for name in self._places}
        for place in range(self.rows):
            names, weights = self._checked(self.schedule.shares(place / self.rows))
            yield int(next(orders[names[int(draw.choice(len(names), p=weights))]]))

    def _order(self, name: str) -> Iterator[int]:
        # A generator for each source: how often one is drawn must not change the order of another.
        shuffled = np.random.default_rng([self.seed, sorted(self._places).index(name)])
        while True:
            yield from shuffled.permutation(self._places[name])
