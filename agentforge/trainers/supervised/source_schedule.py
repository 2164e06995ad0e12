"""Which data source each training row is drawn from, as training goes on: a curriculum over sources.

The loader is never rebuilt. A sampler decides row by row, from the seed and the row's place in the whole run alone, so
a resumed run, which skips what it has seen, draws what the uninterrupted run would have drawn. An epoch is as long as
without a schedule: as many draws as there are rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

import numpy as np
from datasets import Dataset, concatenate_datasets
from numpy.typing import NDArray
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

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

    A source that is used up starts over in another order. One iteration is one epoch, that of `set_epoch`.
    """

    def __init__(self, schedule: SourceSchedule, sources: Sequence[str], epochs: float, seed: int) -> None:
        """Check that every source of the schedule has rows.

        Args:
            schedule: gives the shares.
            sources: of each training row.
            epochs: of the whole training, by which the schedule knows how far it is.
            seed: of the draws.

        Raises:
            UserError: a source of the schedule has no rows, or none of it has a share.
        """
        self.schedule, self.rows, self.epochs, self.seed, self.epoch = schedule, len(sources), epochs, seed, 0
        names = np.array(sources)
        self._places = {str(name): np.flatnonzero(names == name) for name in np.unique(names)}
        # Looked through before the training, so that a source without rows does not stop it half-way.
        for place in range(CHECKED):
            self._cumulated(schedule.shares(place / CHECKED))

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch, from 0, the next iteration is."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        # Drawn again from the very beginning, and what is past is dropped: how often a source was drawn before decides
        # which of its rows is next. (Two microseconds a draw; a resumed loader does the same within its epoch.)
        return islice(self._draws(), self.epoch * self.rows, (self.epoch + 1) * self.rows)

    def _draws(self) -> Iterator[int]:
        """Yield the rows of the whole run, and on."""
        orders = {name: self._order(name) for name in self._places}
        shares: Mapping[str, float] = {}
        for place, uniform in enumerate(self._uniform()):
            # A schedule may train on behind its end: a last step that is cut short can leave a draw or two.
            progress = min(place / self.rows / self.epochs, np.nextafter(1.0, 0.0))
            if (now := self.schedule.shares(progress)) is not shares:
                shares, (names, borders) = now, self._cumulated(now)
            yield int(next(orders[names[int(np.searchsorted(borders, uniform, side="right"))]]))

    def _uniform(self) -> Iterator[float]:
        draw = np.random.default_rng(self.seed)
        while True:
            yield from draw.random(4096).tolist()

    def _cumulated(self, shares: Mapping[str, float]) -> tuple[list[str], NDArray[np.float64]]:
        """Return the names of the sources with a share, and for all but the last where its part of [0, 1) ends."""
        names = [name for name, share in shares.items() if share > 0]
        if missing := [name for name in names if name not in self._places]:
            known = ", ".join(self._places)
            raise UserError(f"the data schedule wants rows of '{missing[0]}', but the prepared data have: {known}")
        if not names:
            raise UserError("the data schedule gives no source a share")
        weights = np.array([shares[name] for name in names], dtype=np.float64)
        return names, (np.cumsum(weights) / weights.sum())[:-1]

    def _order(self, name: str) -> Iterator[int]:
        # A generator for each source: how often one is drawn must not change the order of another.
        shuffled = np.random.default_rng([self.seed, sorted(self._places).index(name)])
        while True:
            yield from shuffled.permutation(self._places[name]).tolist()


class EpochOfSampler(TrainerCallback):
    """Tells the sampler which epoch begins.

    The loader does so as well where it finds the sampler; on a resumed run of several processes it does not, because
    the sampler then lies three wrappers deep.
    """

    def __init__(self, sampler: ScheduledSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the epoch; on a resumed run `state.epoch` is somewhere inside it."""
        self.sampler.set_epoch(int((state.epoch or 0.0) + 1e-6))
