"""`data.curriculum`: stages by epoch, each with the sources that are drawn in it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentforge.errors import UserError
from agentforge.recipe.schema import Data, DataStage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageReading:
    """Where a training stands in its curriculum.

    Attributes:
        number: of the stage, from 1.
        name: of the stage.
        entropy: of the shares of its sources, in nats; 0 for a single source, ln n for n equal ones.
    """

    number: int
    name: str
    entropy: float


class EpochStages:
    """A `SourceSchedule` whose shares are constant in a stage, and change where an epoch ends."""

    def __init__(self, data: Data, rows: Mapping[str, int], missing: Sequence[str], epochs: float) -> None:
        """Work out each stage's shares.

        Args:
            data: with its mix and curriculum.
            rows: number of training rows of each source.
            missing: sources that the data were prepared without.
            epochs: of the whole training.

        Raises:
            UserError: a stage wants a source that has no rows and is not known to be missing.
        """
        self.stages, self.epochs = data.curriculum, epochs
        self._shares = [_shares(stage, data.source_names, rows, set(missing)) for stage in self.stages]
        for stage, before in zip(self.stages[1:], self.stages, strict=False):
            if before.until is not None and before.until >= epochs:
                log.warning("stage '%s' never begins: it follows epoch %g of %g", stage.name, before.until, epochs)

    def shares(self, progress: float) -> Mapping[str, float]:
        """Return the shares at a point of the training; the same object throughout a stage."""
        return self._shares[self._index(progress * self.epochs)]

    def at(self, epoch: float) -> StageReading:
        """Return where a training stands after so many epochs."""
        index = self._index(epoch)
        total = sum(self._shares[index].values())
        entropy = -sum(share / total * math.log(share / total) for share in self._shares[index].values())
        return StageReading(index + 1, self.stages[index].name, abs(entropy))

    def _index(self, epoch: float) -> int:
        # Rounded, because progress is a quotient: 3 of 10 epochs may come back as 2.9999999999999996.
        done = round(epoch, 9)
        for index, stage in enumerate(self.stages[:-1]):
            if stage.until is None or done < stage.until:
                return index
        return len(self.stages) - 1  # also behind its own `until`: the training goes on with what it ended with


def _shares(stage: DataStage, known: Sequence[str], rows: Mapping[str, int], missing: set[str]) -> dict[str, float]:
    names = [name for name in stage.named or known if name not in missing]
    if stage.named and (empty := [name for name in names if not rows.get(name)]):
        raise UserError(
            f"data.curriculum: stage '{stage.name}' wants '{empty[0]}', but the prepared data have no training rows of "
            "it; run `agentforge prepare` again, or take it out of the stage"
        )
    # By rows: a pass over a stage then reads every row of its sources once, as a loader over them alone would.
    return {name: stage.shares.get(name, float(rows[name])) for name in names if rows.get(name)}
