"""The prepared rows on disk: Arrow IPC streams that `datasets` reads memory-mapped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from agentforge.artifacts import read_manifest
from agentforge.errors import UserError
from agentforge.manifest import check_files

if TYPE_CHECKING:
    from datasets import Dataset

SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("assistant_masks", pa.list_(pa.int8())),
        ("source", pa.string()),
        ("place", pa.int64()),
    ]
)
ROWS_PER_FILE = 100_000

TokenisedRow = tuple[NDArray[np.int32], NDArray[np.int8], str, int]
"""Token ids, 1 for each token that is trained, name of the source, place in the order of the sources."""


def write_rows(directory: Path, split: str, batches: Iterator[list[TokenisedRow]]) -> None:
    """Write ``SPLIT-00000.arrow`` ... with `ROWS_PER_FILE` rows each; one file even if there are no rows."""
    number, rows = 0, 0
    writer = _open(directory, split, number)
    for batch in batches:
        if rows and rows + len(batch) > ROWS_PER_FILE:
            writer.close()
            number, rows = number + 1, 0
            writer = _open(directory, split, number)
        writer.write_batch(_record_batch(batch))
        rows += len(batch)
    writer.close()


def _open(directory: Path, split: str, number: int) -> pa.ipc.RecordBatchStreamWriter:
    # A stream, without the footer of an Arrow file: `Dataset.from_file` opens nothing else.
    return pa.ipc.new_stream(str(directory / f"{split}-{number:05d}.arrow"), SCHEMA)


def _record_batch(rows: list[TokenisedRow]) -> pa.RecordBatch:
    # The lists are described by offsets into one flat array, so that no token becomes a Python object.
    offsets = np.zeros(len(rows) + 1, dtype=np.int32)
    np.cumsum([len(row[0]) for row in rows], out=offsets[1:])
    columns = [pa.ListArray.from_arrays(offsets, np.concatenate([row[column] for row in rows])) for column in (0, 1)]
    columns += [pa.array([row[column] for row in rows], SCHEMA.field(column).type) for column in (2, 3)]
    return pa.record_batch(columns, schema=SCHEMA)


def load_prepared(path: Path | str) -> dict[str, Dataset]:
    """Return ``{"train": ..., "eval": ...}`` of a `-data` artefact, memory-mapped; ``eval`` may have no rows.

    Columns: ``input_ids`` and ``assistant_masks`` (lists of int), ``source`` (str), ``place`` (int). Rows lie in a
    random order; in the order of their places they lie as in their sources.

    Raises:
        UserError: the artefact is missing or not finished.
        CheckRefused: it lacks a file, or has one of another size.
    """
    from datasets import Dataset, concatenate_datasets

    path = Path(path)
    manifest = read_manifest(path)
    if manifest["stage"] != "prepare":
        raise UserError(f"{path} was made by '{manifest['stage']}', not by `prepare`; give a -data directory")
    check_files(path, manifest)
    return {
        split: concatenate_datasets([Dataset.from_file(str(file)) for file in sorted(path.glob(f"{split}-*.arrow"))])
        for split in ("train", "eval")
    }
