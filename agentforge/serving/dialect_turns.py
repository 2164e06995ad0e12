"""Turns in a family's own form while they are written; see `turns` for those in ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from agentforge.data.dialects.dialect import Dialect
from agentforge.rollouts.policies.base import Policy, ToolSchema
from agentforge.serving.turns import Delta, Said, TurnStream


class DialectStream(TurnStream):
    """The same for a turn in a family's own form, whose marks the dialect knows.

    Its calls are shown when the turn is over; of several, ``one_call`` keeps the first.
    """

    _dialect: Dialect

    def said(self) -> Said:
        said = super().said()
        return replace(said, tool_calls=said.tool_calls[:1]) if self._one_call else said

    def _cut_after_call(self) -> None:
        return

    def _start(self, end: int) -> None:
        """Decide what the turn begins with; nothing is decided while the text may still become a mark."""
        text = self.raw[self._position : end].lstrip()
        thinking = self._dialect.thinking
        if self._verbatim and text and not thinking.begin.startswith(text[: len(thinking.begin)]):
            self._mode = "verbatim"
            return
        begin = (thinking.begin,) if thinking.begin and not self._thought else ()
        begins = (*begin, *thinking.heads)
        if not text or any(mark.startswith(text) and mark != text for mark in begins):
            return
        found = next((mark for mark in sorted(begins, key=len, reverse=True) if text.startswith(mark)), "")
        opened = self._dialect.opens_reasoning and not self._thought
        self._mode = "reasoning" if (found and found in begin) or (opened and not found) else "content"
        if found:
            self._position = self.raw.index(found, self._position) + len(found)
        self._body = self._position

    _thought = False

    def _until(self, tag: str, kind: Literal["content", "reasoning"], end: int) -> Iterator[Delta]:
        text = self.raw[self._position : end]
        if kind == "reasoning":
            found = text.find(self._dialect.thinking.end)
            marks: tuple[str, ...] = (self._dialect.thinking.end,)
        else:
            syntax = self._dialect.syntax
            if syntax is not None and syntax.whole and (self._shown or not _may_begin(text.lstrip(), syntax.begins)):
                syntax = None  # this form of calls never stands behind text
            at = syntax.find(text) if syntax else None
            found = -1 if at is None else at
            marks = (*(syntax.begins if syntax else ()), self._dialect.thinking.tail)
        piece = text[:found] if found >= 0 else text[: _before_mark(text, marks)]
        self._position += len(piece)
        if found >= 0:
            piece = piece.rstrip()
        if kind == "content":
            piece = piece if self._shown else piece.lstrip()
            self._shown += piece
        elif self._body + len(piece) >= self._position:
            piece = piece.lstrip("\n")
        if piece:
            yield kind, piece
        if found < 0:
            return
        if kind == "content":
            self._mode = "calls"
            return
        self._position += len(self._dialect.thinking.end)
        self._thought = True
        self._mode = "start"
        self._start(end)
        if self._mode == "content":
            yield from self._until(tag, "content", end)


def _may_begin(text: str, marks: Sequence[str]) -> bool:
    """Tell whether a text begins with one of the marks, or may still do so."""
    return any(text.startswith(mark) or mark.startswith(text) for mark in marks)


def _before_mark(text: str, marks: Sequence[str]) -> int:
    """Return where the trailing blanks begin, or a mark, or what may be the beginning of one."""
    end = len(text)
    for mark in marks:
        if mark and (at := text.find(mark)) >= 0:
            end = min(end, at)
            continue
        for length in range(min(len(mark), len(text)), 0, -1):
            if text.endswith(mark[:length]):
                end = min(end, len(text) - length)
                break
    return len(text[:end].rstrip())


def turn_stream(
    policy: Policy,
    tools: Sequence[ToolSchema],
    stop: Sequence[str] = (),
    *,
    one_call: bool = False,
    verbatim: bool = False,
) -> TurnStream:
    """Return what splits the turns of a policy; see `TurnStream`."""
    if policy.dialect is None or policy.dialect.ours:
        return TurnStream(stop, one_call=one_call, verbatim=verbatim)
    return DialectStream(stop, one_call=one_call, verbatim=verbatim, dialect=policy.dialect, tools=tools)
