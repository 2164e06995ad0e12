"""What all policies share: text that is handed out token by token."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentforge.rollouts.policies.base import TextStream


@given(st.text(max_size=30), st.binary(max_size=6))
def test_text_stream_pieces_add_up(text: str, broken: bytes) -> None:
    data = text.encode("utf-8", errors="ignore") + broken
    stream = TextStream(lambda ids: bytes(ids).decode("utf-8", errors="replace"))
    pieces = [stream.push(byte) for byte in data]
    assert "".join(pieces) + stream.finish() == data.decode("utf-8", errors="replace")
