"""AgentTraj-L: what its authors did not train is not trained here either."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agentforge.data.sources.adapters import Rejected, SourceOptions, detect_adapter, get_adapter
from agentforge.data.sources.adapters.trajectories import agenttraj

RAWS = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "fixtures" / "rows" / "agenttraj.jsonl").read_text().splitlines()
]


def roles(row: Any) -> list[str]:
    return [message["role"] for message in row["messages"]]


def test_instructions_become_the_system_turn_and_the_promise_goes() -> None:
    row = agenttraj(RAWS[0], SourceOptions())
    assert isinstance(row, dict) and roles(row) == ["system", "user", "assistant", "user", "assistant"]
    assert row["messages"][0]["content"] == RAWS[0]["conversations"][0]["value"]
    trained = [turn["value"] for turn in RAWS[0]["conversations"] if turn["loss"]]
    assert [m["content"] for m in row["messages"] if m["role"] == "assistant"] == trained


def test_rows_without_untrained_turns_stay_as_they_are() -> None:
    assert roles(agenttraj(RAWS[1], SourceOptions())) == ["user", "assistant"]


def test_an_untrained_turn_further_on_is_read_and_not_trained() -> None:
    turns = RAWS[2]["conversations"]
    row = agenttraj(RAWS[2], SourceOptions())
    assert isinstance(row, dict)
    said = {m["content"]: m.get("train", True) for m in row["messages"] if m["role"] == "assistant"}
    given = {turn["value"]: turn["loss"] for turn in turns if turn["from"] == "gpt" and turn["value"] in said}
    assert said == given and False in said.values()


def test_broken_rows_are_rejected_and_the_shape_is_known_from_sharegpt() -> None:
    for conversations, reason in (
        (None, "no conversation"),
        ([{"from": "alien", "value": "x"}], "unknown role"),
        ([{"from": "human", "value": "x"}], "no assistant turn"),
        (
            [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y", "loss": False}],
            "no trained turn",
        ),
    ):
        assert agenttraj({"conversations": conversations}, SourceOptions()) == Rejected(reason)
    assert detect_adapter({"conversations": [], "item_id": ""}) == "agenttraj"
    assert detect_adapter({"conversations": [], "id": ""}) == "sharegpt"
    assert get_adapter("agenttraj") is agenttraj
