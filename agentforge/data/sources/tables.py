"""Rows of tables: Parquet, Arrow and CSV files."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentforge.errors import CheckRefused, first_line

if TYPE_CHECKING:
    from agentforge.data.sources.readers import ReadCounts

BATCH = 256
"""Rows that are Python objects at once; row groups and record batches can hold a million."""
_UNDECODED = re.compile("[\udc80-\udcff]")


def read_parquet(path: Path, counts: ReadCounts, columns: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file.

    Raises:
        CheckRefused: it is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            wanted = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=BATCH, columns=wanted):
                yield from _rows(batch, counts)
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(path, "Parquet", counts, error) from None


def read_arrow(path: Path, counts: ReadCounts) -> Iterator[dict[str, Any]]:
    """Yield the rows of an Arrow file or stream, such as `datasets` saves.

    Raises:
        CheckRefused: it is damaged.
    """
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            try:
                file = pa.ipc.open_file(source)
                batches = (file.get_batch(number) for number in range(file.num_record_batches))
            except pa.ArrowInvalid:
                source.seek(0)
                batches = iter(pa.ipc.open_stream(source))
            for batch in batches:
                for start in range(0, batch.num_rows, BATCH):
                    yield from _rows(batch.slice(start, BATCH), counts)
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(path, "Arrow", counts, error) from None


def _rows(batch: Any, counts: ReadCounts) -> Iterator[dict[str, Any]]:
    for row in batch.to_pylist():
        counts.rows += 1
        counts.line += 1
        yield drop_none(row)


def drop_none(value: Any) -> Any:
    """Return the value without dict entries that are None, at any depth."""
    if isinstance(value, dict):
        return {key: drop_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [drop_none(item) for item in value]
    return value


def _damaged(path: Path, kind: str, counts: ReadCounts, error: Exception) -> CheckRefused:
    return CheckRefused(
        f"{path} cannot be read as {kind} after {counts.rows} rows ({first_line(error)}); download or make it again"
    )


def read_csv(file: BufferedReader, path: Path, counts: ReadCounts) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table with a header; every cell is text.

    The cells of a `.tsv` are separated by tabs; those of a `.csv` by commas or, if the header has none, by semicolons
    or tabs.

    Raises:
        CheckRefused: the rest cannot be read.
    """
    csv.field_size_limit(sys.maxsize)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    header = text.readline()
    names = next(csv.reader([header], delimiter=(mark := _delimiter(header, path))), [])
    reader = csv.reader(text, delimiter=mark)
    before = 1
    try:
        for cells in reader:
            number, before = before + 1, reader.line_num + 1
            counts.line = number
            if not cells:
                continue
            if len(cells) != len(names):
                counts.count_bad("not as many cells as the header", path, number)
            elif any(map(_UNDECODED.search, cells)):
                counts.count_bad("broken UTF-8", path, number)
            else:
                counts.rows += 1
                yield dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise CheckRefused(f"{path}, line {before + 1}, cannot be read as CSV ({error}); correct the file") from None


def _delimiter(header: str, path: Path) -> str:
    if ".tsv" in path.suffixes:
        return "\t"
    return next((mark for mark in (",", ";", "\t") if mark in header), ",")
