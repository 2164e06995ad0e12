"""YAML as a recipe reads it: YAML 1.2's scalars, no repeated keys, errors with file and line."""

from pathlib import Path

import pytest

from agentforge.errors import UserError
from agentforge.recipe.yaml_files import find_config, line_of, parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("2e-5", 2e-5),
        ("1.5e+3", 1500.0),
        ("-.5", -0.5),
        ("1_000", 1000),
        ("010", 10),
        ("0x1f", 31),
        ("12:30", "12:30"),
        ("2026-05-01", "2026-05-01"),
        ("2.0.0", "2.0.0"),
        ("~", None),
        ("", None),
    ],
)
def test_scalars(text: str, value: object) -> None:
    assert parse_yaml(text, "t") == value
    assert type(parse_yaml(text, "t")) is type(value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: the key 'a' occurs twice"),
        ("a: {b: 1, b: 2}\n", "line 1: the key 'b' occurs twice"),
        ("a: 1\n1: x\n", "line 2: the key '1' must be text"),
        ("true: x\n", "line 1: the key 'true' must be text"),
        ("[a]: x\n", "line 1: the key a list or mapping must be text"),
        ("a:\n\tb: 1\n", "line 2: .*a tab stands there: indent with spaces"),
        ("a: [1,\n", "line 1: this is not YAML"),
        ("a: *b\n", "line 1: this is not YAML"),
        ("a: 1\n---\nb: 2\n", "line 2: this is not YAML"),
        ("!!python/object/apply:os.getcwd []\n", "line 1: this is not YAML"),
        ("- 1\n", "it holds a list"),
        ("just text\n", "it holds a str"),
        ("", "it holds nothing"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=f"r.yaml.*{says}"):
        read_yaml(file)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_bytes(b"\xef\xbb\xbfname: x\n")
    assert read_yaml(file) == {"name": "x"}


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_bytes("name: Käse\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8 text \\(byte 7\\)"):
        read_yaml(file)


def test_anchors_and_merge_keys_work(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}\n")
    assert read_yaml(file)["d"] == {"b": 1, "c": 3}


def test_the_line_of_a_nested_key(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("a:\n  - x: 1\n    y: 2\n  - x: 3\nb: 4\n")
    assert [line_of(file, keys) for keys in (("a", "0", "y"), ("a", "1", "x"), ("b",))] == [3, 4, 5]
    assert [line_of(file, keys) for keys in (("c",), ("a", "7"), ("b", "c"))] == [None, None, None]


def test_the_nearest_file_is_named() -> None:
    with pytest.raises(UserError, match=r"there is no hardware '8xh20'; did you mean '8xh200'\?"):
        find_config("hardware", "8xh20")
