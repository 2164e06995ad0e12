"""Files of every kind hold the same rows, and those that hold none say why."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agentforge.data.sources.open_sources import open_sources
from agentforge.data.sources.readers import ReadCounts, read_rows
from agentforge.errors import CheckRefused, UserError
from agentforge.recipe.schema import Data

ROWS = [{"question": f'question {n}, "quoted"\nand more', "answer": f"ä{n}"} for n in range(5)]


def as_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")


def as_array(path: Path) -> None:
    path.write_text(json.dumps(ROWS), encoding="utf-8")


def as_indented(path: Path) -> None:
    path.write_text("\n".join(json.dumps(row, indent=2) for row in ROWS), encoding="utf-8")


def as_csv(path: Path, delimiter: str = ",") -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


def as_arrow_file(path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


def as_arrow_stream(path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


FILES: list[tuple[str, Callable[[Path], None]]] = [
    ("a.jsonl", as_jsonl),
    ("a.json", as_jsonl),
    ("a.json", as_array),
    ("a.jsonl", as_array),
    ("a.json", as_indented),
    ("a.csv", as_csv),
    ("a.csv", lambda path: as_csv(path, ";")),
    ("a.tsv", lambda path: as_csv(path, "\t")),
    ("a.parquet", lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path)),
    ("a.arrow", as_arrow_file),
    ("a.arrow", as_arrow_stream),
]


PACKED = [
    (name, write, packed)
    for name, write in FILES
    for packed in ("", ".gz", ".zst")
    if not packed or not name.endswith((".parquet", ".arrow"))
]


@pytest.mark.parametrize(("name", "write", "packed"), PACKED)
def test_every_kind_of_file_gives_the_same_rows(
    tmp_path: Path, name: str, write: Callable[[Path], None], packed: str
) -> None:
    plain = tmp_path / name
    write(plain)
    path = plain
    if packed:
        path = tmp_path / f"{name}{packed}"
        content = plain.read_bytes()
        path.write_bytes(gzip.compress(content) if packed == ".gz" else pa.compress(content, "zstd", asbytes=True))
    counts = ReadCounts()
    assert list(read_rows(path, counts)) == ROWS and counts.rows == len(ROWS) and not counts.bad
    # Of tables the line on which the last row begins, of which each has two.
    assert counts.line == (10 if name.endswith("sv") else 5)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", '{"text": "x"}\n'.encode("utf-16"), "is UTF-16; convert it: iconv"),
        ("a.jsonl", '{"text": "x"}\n'.encode("utf-16-le"), "has NUL bytes.*iconv"),
        (
            "a.jsonl",
            gzip.compress(b'{"text": "x"}\n', mtime=0),
            "is compressed with gzip; give it a name that ends in .gz",
        ),
        ("a.json", pa.compress(b"{}", "zstd", asbytes=True), "compressed with zstd"),
        ("a.jsonl.gz", b'{"text": "x"}\n', "gzip file that is damaged"),
        ("a.jsonl.zst", b'{"text": "x"}\n', "zstd file that is damaged"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer.*git lfs pull"),
        ("a.jsonl", b"\n<!DOCTYPE html><html>", "an HTML page"),
        ("a.csv", b"PK\x03\x04....", "zip archive"),
        ("a.arrow", b"nothing", "cannot be read as Arrow"),
    ],
)
def test_files_without_rows_say_why(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckRefused, match=reason):
        list(read_rows(path, ReadCounts()))


@pytest.mark.parametrize(
    ("content", "reason"), [("", "empty"), (" \n", "nothing but space"), ("[1]\n[2]\n", "not an object")]
)
def test_a_source_without_a_readable_row_says_why(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=f"have no readable row: .*{reason}"):
        open_sources(Data.model_validate({"mix": [{"dataset": str(path)}]}))


def test_bad_lines_of_a_table_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'question,answer\n"a\nb",c\nonly\nd,\xff\ne,f\n')
    counts = ReadCounts()
    assert [row["answer"] for row in read_rows(path, counts)] == ["c", "f"]
    assert counts.describe_bad() == "1 not as many cells as the header (a.csv:4); 1 broken UTF-8 (a.csv:5)"


def test_a_saved_dataset_is_a_folder_of_rows(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    saved = DatasetDict({"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS[:1])})
    saved.save_to_disk(str(tmp_path / "saved"))
    for split, rows in ((None, 5), ("test", 1)):
        [source], _ = open_sources(Data.model_validate({"mix": [{"dataset": str(tmp_path / "saved"), "split": split}]}))
        assert len(list(source.raw_rows(ReadCounts()))) == rows
