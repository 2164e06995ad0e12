"""data/aj: rows of the canonical shape, real and reproducible outputs, held-out prompts that training never saw."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentforge.data.tools import load_tools
from data.aj.generator import world

REPOSITORY = Path(__file__).parents[2]
AJ = REPOSITORY / "data" / "aj"
TOOLS = load_tools("aj")
FILES = sorted(AJ.glob("*/*.jsonl"))
ENTITY = re.compile(
    r"\b(?:\w+/\w+(?:\.\w+)?|\w+\.(?:log|csv|py|md|txt|ini)|(?:web|db|cache|mail)(?:prod|test)?\d*|\d+)\b"
)


def read(path: Path) -> list[list[dict[str, Any]]]:
    return [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]


def user_turns(split: str) -> list[str]:
    rows = [row for path in sorted((AJ / split).glob("*.jsonl")) for row in read(path)]
    return [message["content"] for row in rows for message in row if message["role"] == "user"]


def calls(row: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [call["function"] for message in row for call in message.get("tool_calls", [])]


def normalised(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_call_fits_its_tool_and_has_its_result(path: Path) -> None:
    for row in read(path):
        assert row[0]["role"] == "system"
        assert row[-1]["role"] == "assistant"
        assert not row[-1].get("tool_calls")
        assert all(isinstance(message["content"], str) for message in row)
        for call in calls(row):
            assert TOOLS.check({"type": "function", "function": call}) is None
        for index, message in enumerate(row):
            names = [call["function"]["name"] for call in message.get("tool_calls", [])]
            results = [result.get("name") for result in row[index + 1 : index + 1 + len(names)]]
            assert results == names


def test_the_compact_tools_ask_for_the_same_arguments() -> None:
    def required(name: str) -> dict[str, list[str]]:
        return {
            schema["function"]["name"]: schema["function"]["parameters"].get("required", [])
            for schema in load_tools(name).schemas
        }

    assert required("aj_compact") == required("aj")


def test_there_are_several_hundred_conversations_and_enough_questions() -> None:
    train = [row for path in (AJ / "train").glob("*.jsonl") for row in read(path)]
    heldout = [row for path in (AJ / "heldout").glob("*.jsonl") for row in read(path)]
    assert 600 <= len(train) <= 1000
    assert sum(len(calls(row)) for row in heldout) >= 150
    for rows in (train, heldout):
        used = Counter(call["name"] for row in rows for call in calls(row))
        assert set(used) == set(TOOLS.names)
    assert any(len(message.get("tool_calls", [])) == 2 for row in train for message in row)


def test_heldout_prompts_never_occur_in_training() -> None:
    trained = {normalised(text) for text in user_turns("train")}
    assert not [text for text in user_turns("heldout") if normalised(text) in trained]


def test_heldout_phrasings_never_occur_in_training() -> None:
    """With every file, machine and number replaced, no held-out sentence is one of training."""
    phrases = {split: {ENTITY.sub("X", text.lower()) for text in user_turns(split)} for split in ("train", "heldout")}
    assert not phrases["train"] & phrases["heldout"]


def test_intents_have_distinct_phrasings() -> None:
    intents = yaml.safe_load((AJ / "generator" / "intents.yaml").read_text(encoding="utf-8"))
    seen = Counter(normalised(text) for intent in intents.values() for text in intent["train"] + intent["heldout"])
    assert [text for text, count in seen.items() if count > 1] == []
    for intent in intents.values():
        assert {"answer", "empty"} & set(intent)


def test_heldout_calls_combine_anew() -> None:
    """A command on a machine is never one of training; the second reading of a file that was looked for may be."""

    def combinations(split: str) -> set[tuple[str, ...]]:
        rows = [row for path in (AJ / split).glob("*.jsonl") for row in read(path)]
        return {
            (
                call["arguments"].get("agent") or call["arguments"].get("pattern") or call["name"],
                call["arguments"]["command"],
            )
            for row in rows
            for call in calls(row)
            if call["name"] in ("bash", "remote_bash", "remote_bash_all")
            and "cat ./" not in call["arguments"]["command"]
        }

    assert not combinations("train") & combinations("heldout")


def test_the_generator_makes_the_same_bytes_again(tmp_path: Path) -> None:
    """The first rows of every file, made again in other scratch directories, are those committed."""
    rows = 6
    command = [sys.executable, "-m", "data.aj.generator", "--out", str(tmp_path), "--rows", str(rows)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=120)
    for path in FILES:
        made = (tmp_path / path.relative_to(AJ)).read_bytes().splitlines()
        assert rows - 1 <= len(made) <= rows
        assert made == path.read_bytes().splitlines()[: len(made)]


def test_outputs_name_nothing_of_the_machine_they_were_made_on() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert "/tmp/" not in text
        assert str(Path.home()) not in text


def test_the_example_files_are_made_again_byte_for_byte(tmp_path: Path) -> None:
    world.fill(tmp_path, world.FILES, random.Random("example"))
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    example = AJ / "example"
    assert made == {path.relative_to(example): path.read_bytes() for path in example.rglob("*") if path.is_file()}
