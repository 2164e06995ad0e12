"""The lines of `data.mix`, opened: their files, adapters and filters, joined from the recipe and the registry."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentforge.data.cleaning.filters import RowFilter, effective_filters
from agentforge.data.messages import BadRow
from agentforge.data.row_text import Row
from agentforge.data.sources.adapters import JOINERS, Adapter, Rejected, SourceOptions, detect_adapter, get_adapter
from agentforge.data.sources.adapters.base import LEFT_OUT, WatchedRow
from agentforge.data.sources.dataset_cards import DatasetCard
from agentforge.data.sources.evaluation_parts import refuse_evaluation_part
from agentforge.data.sources.readers import ReadCounts, read_part, read_rows
from agentforge.data.sources.remote_files import RemoteFiles
from agentforge.data.sources.source_files import (
    MissingData,
    evaluation_source,
    locate,
    read_lock,
    registered,
    resolved_revision,
    snapshot,
)
from agentforge.errors import UserError, did_you_mean
from agentforge.recipe.schema import Data, Source

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adapted:
    """What a raw row became.

    Attributes:
        rows: messages or text.
        rejected: the reason of each row that was not made.
        left_out: what the raw row holds and the rows do not: a column, a key of a turn, or a kind of turn, to number.
    """

    rows: list[Row]
    rejected: list[str]
    left_out: Counter[str]


@dataclass(frozen=True)
class OpenSource:
    """A source whose files are there and whose adapter is known.

    Attributes:
        name: unique in the mix; the dataset, with a number if it stands in the mix more than once.
        remote: fetches the files one at a time, if they are not kept here.
        part: share of each file that is read, from and to; None: all.
        held_out: its rows are for evaluation alone.
        dataset: as the recipe has it.
        licence, revision: from the registry's card; None for local files.
        card_hash: what the card says of the rows; None for local files.
    """

    name: str
    dataset: str
    weight: float
    max_repeats: float
    max_rows: int | None
    files: list[Path]
    remote: RemoteFiles | None
    part: tuple[float, float] | None
    held_out: bool
    adapter_name: str
    adapter: Adapter
    joiner: Callable[[Iterable[Any]], Iterator[Any]] | None
    options: SourceOptions
    row_filter: RowFilter
    split_key: str | None
    system: str | None
    licence: str | None
    revision: str | None
    card_hash: str | None

    @staticmethod
    def new_counts() -> ReadCounts:
        """Return empty counts for one reading of the files."""
        return ReadCounts()

    def raw_rows(self, counts: ReadCounts) -> Iterator[dict[str, Any]]:
        """Yield the raw rows of all files; unreadable ones are counted in ``counts``.

        Rows that are only parts (WikiText's lines) are joined here, over the ends of chunks and files.
        """
        rows = (row for number, file in enumerate(self.files) for row in self._rows_of(number, file, counts))
        return iter(rows) if self.joiner is None else self.joiner(rows)

    def _rows_of(self, number: int, file: Path, counts: ReadCounts) -> Iterator[dict[str, Any]]:
        counts.file = number
        with nullcontext() if self.remote is None else self.remote.here(file):
            yield from self._rows_of_file(file, counts)

    def _rows_of_file(self, file: Path, counts: ReadCounts) -> Iterator[dict[str, Any]]:
        return read_rows(file, counts) if self.part is None else read_part(file, self.part, counts)

    def adapt(self, raw: dict[str, Any]) -> Adapted:
        """Return the rows that a raw row gives, the reasons of those that it does not, and what is in none of them."""
        watched = WatchedRow(raw)
        try:
            answer = self.adapter(watched, self.options)
        except BadRow as error:
            return Adapted([], [error.reason], Counter())
        answers = answer if isinstance(answer, list) else [answer]
        rows = [row for row in answers if not isinstance(row, Rejected)]
        left_out: Counter[str] = Counter()
        if rows:
            consulted = self.row_filter.columns | {self.split_key}
            left_out.update(column for column in watched.unread() if column not in consulted)
        for row in rows:
            left_out.update(row.pop(LEFT_OUT, {}))
        return Adapted(rows, [row.reason for row in answers if isinstance(row, Rejected)], left_out)

    def split_value(self, raw: dict[str, Any]) -> str:
        """Return the value of `split_key`.

        Raises:
            UserError: the rows have no such column.
        """
        if self.split_key not in raw:
            near = did_you_mean(str(self.split_key), list(raw))
            raise UserError(f"{self.name}: the rows have no column '{self.split_key}' to split by{near}")
        return str(raw[self.split_key])

    def all_rows(self) -> Iterator[Row]:
        """Yield the adapted rows of all files as they are; evaluation sets are read this way.

        Raises:
            CheckRefused: a row cannot be read; what is not known cannot be kept out of training.
        """
        counts = self.new_counts()
        for raw in self.raw_rows(counts):
            yield from self.adapt(raw).rows
        counts.check(self.name, max_bad_rows=0.0)


def open_sources(data: Data) -> tuple[list[OpenSource], list[str]]:
    """Open every line of `data.mix`.

    Returns:
        the sources, and the data sets that are missing (only with `data.allow_missing`; otherwise they are refused).

    Raises:
        UserError: a data set is unknown, switched off, not downloaded, or what benchmarks score.
    """
    opened: list[OpenSource] = []
    missing: list[str] = []
    for source, name in zip(data.mix, data.source_names, strict=True):
        refuse_evaluation_part(source, data)
        try:
            opened.append(_open(source, data, name))
        except MissingData as error:
            if not data.allow_missing:
                raise MissingData(f"{error}, or set data.allow_missing=true to go on without it") from None
            log.warning("%s is left out; the other sources share its weight: %s", name, error)
            missing.append(name)
    if not opened:
        raise MissingData(
            f"none of the data sets of data.mix is here ({', '.join(missing)}); run `agentforge download`"
        )
    return opened, missing


def open_evaluation(data: Data) -> list[OpenSource]:
    """Open the evaluation sets of `data.decontaminate.against`: ids (with a split as in ``gsm8k:test``) or files."""
    opened = []
    for entry in data.decontaminate.against:
        try:
            opened.append(_open(evaluation_source(entry), data, entry))
        except MissingData as error:
            raise MissingData(f"{error}, or take it out of data.decontaminate.against") from None
    return opened


def _open(source: Source, data: Data, name: str) -> OpenSource:
    card = registered(source)
    files = locate(source, data)
    # The line of the mix takes precedence over the card, and the card over the data section.
    columns = {**(card.adapter_columns if card else {}), **source.columns}
    filters = effective_filters(data.filters, card.filters if card else None, source.filters)
    options = SourceOptions(columns, source.split or (card.default_split if card else None))
    remote = _remote(card, source, files) if card is not None and source.stream else None
    adapter = source.adapter or (card.adapter if card else None) or _detect(files, name, remote)
    return OpenSource(
        name=name,
        dataset=source.dataset,
        weight=source.weight,
        max_repeats=source.max_repeats or data.max_repeats,
        max_rows=source.max_rows,
        files=files,
        remote=remote,
        part=None if source.part is None else (source.part[0], source.part[1]),
        held_out=source.held_out,
        adapter_name=adapter,
        adapter=get_adapter(adapter),
        joiner=JOINERS.get(adapter),
        options=options,
        row_filter=RowFilter(filters, columns),
        split_key=source.split_key or (card.split_key if card else None),
        system=source.system or data.system,
        licence=card.licence if card else None,
        revision=resolved_revision(card) if card else None,
        card_hash=card.identity if card else None,
    )


def _remote(card: DatasetCard, source: Source, files: list[Path]) -> RemoteFiles | None:
    """Return what fetches the files of a source that is streamed; None if they are a mirror's."""
    lock = read_lock(str(card.hub_id), card.revision)
    root = None if lock is None else snapshot(lock.hub_id, lock.revision)
    if lock is None or root is None or not all(file.is_relative_to(root) for file in files):
        return None
    names = {file: str(file.relative_to(root)) for file in files}
    return RemoteFiles(lock.hub_id, lock.revision, {file: (name, lock.files[name]) for file, name in names.items()})


def _detect(files: list[Path], name: str, remote: RemoteFiles | None) -> str:
    """Detect the adapter from the first row that can be read."""
    # Counts of its own: the same rows are read, and counted, again by `prepare`.
    counts = ReadCounts()
    for file in files:
        if remote is not None:
            remote.fetch(file)  # it stays until its rows are read
        for raw in read_rows(file, counts):
            try:
                return detect_adapter(raw)
            except UserError as error:
                raise UserError(f"{name}: {error}") from None
    shown = ", ".join(file.name for file in files[:3])
    why = counts.describe_bad() or ("empty" if not any(file.stat().st_size for file in files) else "nothing but space")
    raise UserError(f"{name}: its files ({shown}) have no readable row: {why}")
