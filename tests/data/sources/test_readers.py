"""Reading is streamed, repairs what it can without guessing, and counts the rest by kind and line."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentforge.data.sources import readers
from agentforge.data.sources.readers import ReadCounts, read_rows
from agentforge.errors import CheckRefused, UserError

ROWS = [{"n": n, "text": f"row {n} – ünïcode \u2028 🦉"} for n in range(20)]


def read(path: Path) -> tuple[list[dict], ReadCounts]:
    counts = ReadCounts()
    return list(read_rows(path, counts)), counts


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def lines(rows: list[dict]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    files = [
        write(tmp_path / "a.jsonl", lines(ROWS)),
        write(tmp_path / "a.jsonl.gz", gzip.compress(lines(ROWS))),
        write(tmp_path / "a.json", json.dumps(ROWS).encode()),
        write(tmp_path / "b.json", json.dumps(ROWS, indent=4, ensure_ascii=False).encode()),
        write(tmp_path / "c.json", lines(ROWS)),
        tmp_path / "a.parquet",
    ]
    for file in files:
        rows, counts = read(file)
        assert rows == ROWS, file
        assert (counts.rows, counts.bad, sum(counts.repaired.values())) == (20, 0, 0), file


def test_the_faults_of_the_original_file_lose_no_row(tmp_path: Path) -> None:
    """Facts 1.4: one byte order mark and five raw control characters cost the original 6 of 999 rows, unreported."""
    content = [b'\xef\xbb\xbf{"text": "first"}\n'] + [b'{"text": "ok"}\n'] * 993 + [b'{"text": "a\tb\x07c"}\n'] * 5
    rows, counts = read(write(tmp_path / "context_switching.jsonl", b"".join(content)))
    assert len(rows) == counts.rows == 999 and counts.bad == 0
    assert rows[0] == {"text": "first"} and rows[-1] == {"text": "a\tb\x07c"}
    assert counts.repaired == {"byte order mark": 1, "control characters": 5}


def test_bad_lines_are_counted_by_kind_and_line(tmp_path: Path) -> None:
    content = b'{"a": 1}\n\n{"a": \xff}\nnonsense\n[1, 2]\n' + b'{"a":' * 100_000 + b'\n{"a": 2}\n{"a": "cut'
    rows, counts = read(write(tmp_path / "bad.jsonl", content))
    assert rows == [{"a": 1}, {"a": 2}]
    assert counts.first_lines == {
        "broken UTF-8": ["bad.jsonl:3"],
        "not JSON": ["bad.jsonl:4"],
        "not an object": ["bad.jsonl:5"],
        "nested too deeply": ["bad.jsonl:6"],
        "cut last line": ["bad.jsonl:8"],
    }
    assert counts.bad == 5


def test_a_source_with_too_many_bad_rows_is_refused_by_name_count_and_line(tmp_path: Path) -> None:
    rows, counts = read(write(tmp_path / "bad.jsonl", b'{"a": 1}\n' * 98 + b"oops\n" * 2))
    assert len(rows) == 98
    counts.check("bad.jsonl", max_bad_rows=0.02)
    with pytest.raises(
        CheckRefused, match=r"bad.jsonl: 2 of 100 rows \(2.0%\).*2 not JSON \(bad.jsonl:99, bad.jsonl:100\)"
    ):
        counts.check("bad.jsonl", max_bad_rows=0.01)


def test_only_the_first_places_of_a_kind_are_kept(tmp_path: Path) -> None:
    _, counts = read(write(tmp_path / "bad.jsonl", b"oops\n" * 1000))
    assert counts.bad_kinds == {"not JSON": 1000} and len(counts.first_lines["not JSON"]) == readers.FIRST_LINES


def test_half_a_surrogate_pair_is_replaced_and_counted(tmp_path: Path) -> None:
    content = rb'{"a": "\ud83d"}' + b"\n" + rb'{"a": "\ud83e\udd89 \u00fc \\ud83d"}'
    rows, counts = read(write(tmp_path / "a.jsonl", content))
    assert rows == [{"a": "\ufffd"}, {"a": "🦉 ü \\ud83d"}]
    assert counts.repaired == {"half surrogate pairs": 1}
    rows, counts = read(write(tmp_path / "a.json", rb'[{"a": "\ud83d"}]'))
    assert rows == [{"a": "\ufffd"}] and counts.repaired == {"half surrogate pairs": 1}


@given(
    rows=st.lists(
        st.dictionaries(st.text(max_size=5), st.text(max_size=30) | st.integers() | st.lists(st.text())), max_size=8
    ),
    indent=st.none() | st.integers(0, 3),
    ascii_only=st.booleans(),
    chunk=st.integers(1, 40),
)
def test_arrays_survive_any_chunk_boundary(tmp_path_factory, rows, indent, ascii_only, chunk) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("array") / "a.json"
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    path.write_bytes(text.encode("utf-8", "surrogatepass") if ascii_only else text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "CHUNK_CHARACTERS", chunk)
        assert read(path)[0] == rows


def test_arrays_repair_and_count_like_lines(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbf[{"a": "x\ty"}, {"a": "\xff"}, 3, {"a": 4}]'
    rows, counts = read(write(tmp_path / "a.json", content))
    assert rows == [{"a": "x\ty"}, {"a": 4}]
    assert counts.repaired == {"byte order mark": 1, "control characters": 1}
    assert counts.first_lines == {"broken UTF-8": ["a.json:2"], "not an object": ["a.json:3"]}


@pytest.mark.parametrize("cut", [b'[{"a": 1}, {"a": "', b'[{"a": 1}', b'[{"a": 1}, ', b'[{"a": 1}, {"a": 12'])
def test_an_array_that_ends_early_is_refused(tmp_path: Path, cut: bytes) -> None:
    with pytest.raises(CheckRefused, match=r"a\.json ends inside its JSON array, after 1 rows"):
        read(write(tmp_path / "a.json", cut))


def test_a_broken_row_inside_an_array_is_refused_with_its_number(tmp_path: Path) -> None:
    content = b'[{"a": 1}, {"a" 2}, ' + b'{"a": 3}, ' * 50 + b'{"a": 3}]'
    with pytest.raises(CheckRefused, match=r"row 2 of the JSON array is not JSON"):
        read(write(tmp_path / "a.json", content))


def test_damaged_parquet_and_gzip_are_refused_in_one_sentence(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    for content in (whole[:-20], whole[: len(whole) // 2], b"no parquet"):
        with pytest.raises(CheckRefused, match=r"a\.parquet cannot be read as Parquet"):
            read(write(tmp_path / "a.parquet", content))
    with pytest.raises(CheckRefused, match="gzip file that is damaged"):
        read(write(tmp_path / "a.jsonl.gz", gzip.compress(lines(ROWS))[:-30]))
    with pytest.raises(CheckRefused, match="gzip file that is damaged"):
        read(write(tmp_path / "b.jsonl.gz", lines(ROWS)))


def test_parquet_drops_the_arguments_that_arrow_made_up(tmp_path: Path) -> None:
    """Facts 2: Arrow structs give every call every key of the column: {"command": "ls", "agent": null}."""
    rows = [
        {
            "calls": [
                {"name": "bash", "arguments": {"command": "ls"}},
                {"name": "remote", "arguments": {"agent": "web"}},
            ]
        },
        {"calls": [], "extra": {"deep": None}},
    ]
    arguments = pa.struct({"command": pa.string(), "agent": pa.string()})
    calls = pa.list_(pa.struct({"name": pa.string(), "arguments": arguments}))
    schema = pa.schema({"calls": calls, "extra": pa.struct({"deep": pa.string()})})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet").to_pylist()[0]["calls"][0]["arguments"] == {
        "command": "ls",
        "agent": None,
    }
    assert read(tmp_path / "a.parquet")[0] == [rows[0], {"calls": [], "extra": {}}]
    json_rows, _ = read(write(tmp_path / "a.jsonl", b'{"arguments": {"agent": null}}'))
    assert json_rows == [{"arguments": {"agent": None}}]


def test_parquet_reads_only_the_columns_asked_for(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert list(read_rows(tmp_path / "a.parquet", ReadCounts(), columns=["n", "absent"])) == [
        {"n": n} for n in range(20)
    ]


def test_text_is_one_document_and_a_long_one_is_cut_between_paragraphs(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    text = "\n\n".join(f"Paragraph {n} of the book." for n in range(50))
    assert read(write(tmp_path / "a.txt", b"\xef\xbb\xbf" + text.encode()))[0] == [{"text": text}]
    monkeypatch.setattr(readers, "TEXT_CHARACTERS", 100)
    pieces = [row["text"] for row in read(write(tmp_path / "a.md", text.encode()))[0]]
    assert "".join(pieces) == text and len(pieces) > 5
    assert all(piece.startswith("Paragraph") for piece in pieces)
    assert read(write(tmp_path / "empty.txt", b" \n"))[0] == []
    assert read(write(tmp_path / "bad.txt", b"a\xff\xfe"))[1].bad_kinds == {"broken UTF-8": 1}


def test_unknown_and_absent_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.xlsx: \.xlsx is not a known kind of data file; known: \.jsonl"):
        read(write(tmp_path / "a.xlsx", b""))
    with pytest.raises(UserError, match=r"nowhere\.jsonl does not exist"):
        read(tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    row = json.dumps({"text": "x" * 1000}).encode()
    separator, start, end = (b"\n", b"", b"") if name == "a.jsonl" else (b",", b"[", b"]")
    path = write(tmp_path / name, start + separator.join([row] * 20_000) + end)
    tracemalloc.start()
    count = sum(1 for _ in read_rows(path, ReadCounts()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000 and peak < 8e6 < path.stat().st_size
