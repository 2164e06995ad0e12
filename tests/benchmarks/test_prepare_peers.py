"""The benchmark of `prepare` beside TRL: it compares like with like, for both make the same tokens of the same rows."""

from __future__ import annotations

from pathlib import Path

from benchmarks.prepare_peers import conversations, make_setting, ours, table, trl


def test_both_make_the_same_tokens(tmp_path: Path) -> None:
    """TRL's marked template of Qwen2.5 also trains the newlines before and behind each answer."""
    setting = make_setting(tmp_path, None, None, rows=12, processes=1)
    mine = ours(setting, tmp_path / "ours", checked=False)
    theirs = trl(setting, tmp_path / "trl")
    answers = sum(turn["role"] == "assistant" for row in conversations(12) for turn in row["messages"])
    assert (mine.kept, mine.tokens, mine.trained) == (12, theirs.tokens, theirs.trained - 2 * answers)
    assert mine.trained > answers
    lines = list(table({"ours": [mine], "theirs": [theirs]}, 12))
    assert lines[2].endswith(" | 1.00 |") and f" | {theirs.seconds / mine.seconds:.2f} |" in lines[3]


def test_conversations_are_drawn_anew_and_can_be_drawn_again() -> None:
    drawn = list(conversations(50))
    assert drawn == list(conversations(50))
    assert len({str(row) for row in drawn}) == 50
    assert {row["messages"][0]["role"] for row in drawn} == {"system"}
    assert all(row["messages"][-1]["role"] == "assistant" for row in drawn)
