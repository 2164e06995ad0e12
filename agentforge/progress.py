"""How far a stage is: a bar on a terminal; where there is none, a line in the log now and then."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Self, TypeVar

from tqdm import tqdm

log = logging.getLogger(__name__)
Item = TypeVar("Item")

SECONDS = 10.0
"""Between two lines, and before the first: what ends sooner says nothing."""


class Progress:
    """A count that somebody can watch; to be used in a ``with`` block.

    Args:
        what: is being done, as in ``reading``.
        unit: of the count, in the plural.
        total: to be counted; None: not known.
        done: counted before, by an earlier run.
    """

    def __init__(self, what: str, unit: str, total: int | None = None, done: int = 0) -> None:
        self._what, self._unit, self._total, self._done = what, unit, total, done
        self._bar = tqdm(total=total, initial=done, desc=what, unit=f" {unit}", leave=False, disable=None)
        self._logs = not sys.stderr.isatty()
        self._began = self._said = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def advance(self, amount: int = 1) -> None:
        """Count."""
        self._bar.update(amount)
        self._done += amount
        if self._logs and (now := time.monotonic()) - self._said >= SECONDS:
            self._said = now
            of = "" if self._total is None else f" of {self._total:,}"
            log.info("%s: %s%s %s after %.0f s", self._what, f"{self._done:,}", of, self._unit, now - self._began)


def watched(
    items: Iterable[Item],
    what: str,
    unit: str,
    total: int | None = None,
    amount: Callable[[Item], int] = lambda _: 1,
) -> Iterator[Item]:
    """Yield the items, and count each when its work is done.

    Args:
        items: of a loop that may take long.
        what: is being done.
        unit: of the count, in the plural.
        total: to be counted; None: not known.
        amount: what an item counts.
    """
    with Progress(what, unit, total) as progress:
        for item in items:
            yield item
            progress.advance(amount(item))
