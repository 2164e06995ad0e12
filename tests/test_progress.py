"""A stage that takes long says how far it is, also where nobody sees a bar."""

from __future__ import annotations

import logging

import pytest

from agentforge import progress
from agentforge.progress import Progress, watched


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Four seconds pass whenever somebody looks."""
    now = [0.0]

    def monotonic() -> float:
        now[0] += 4.0
        return now[0]

    monkeypatch.setattr(progress.time, "monotonic", monotonic)
    return now


def test_in_a_pipe_there_is_a_line_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert list(watched(range(6), "reading", "rows", 6)) == list(range(6))
    assert [record.message for record in caplog.records] == [
        "reading: 3 of 6 rows after 12 s",
        "reading: 6 of 6 rows after 24 s",
    ]


def test_what_was_done_before_counts_and_a_total_need_not_be_known(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Progress("collect expert", "episodes", done=100) as shown:
        for _ in range(3):
            shown.advance(10)
    assert caplog.messages == ["collect expert: 130 episodes after 12 s"]


def test_what_ends_soon_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    list(watched(range(2), "reading", "rows"))
    assert not caplog.messages
