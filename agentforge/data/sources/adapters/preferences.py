"""What people preferred: a chosen answer beside a rejected one (DPO), or an answer that was liked or not (KTO)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentforge.data.messages import Message
from agentforge.data.sources.adapters.base import LEFT_OUT, Raw, Rejected, Row, SourceOptions, conversation
from agentforge.data.sources.adapters.conversations import as_turns, tools_of, with_system
from agentforge.data.sources.adapters.questions import completion_turns, prompt_turns
from agentforge.data.sources.adapters.turns import Turn, from_first_question, read_turns

LATER_TURNS = "turns after the first answer that differs"
_ASKS = ("prompt", "question", "instruction", "query")
_CONVERSATIONS = ("messages", "conversations", "conversation")
_REJECTED = ("rejected", "rejected_messages", "rejected_response")
_LABELS = ("label", "kto_tag")
_ANSWERS = ("completion", "response", "output", "answer")
_TRUTH = {"true": True, "1": True, "false": False, "0": False}
_TRANSCRIPT = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt; messages and tools in the form of docs/architecture.md.

    Attributes:
        chosen, rejected: the same conversation, up to a last assistant turn that differs.
        left_out: what of the raw row is in neither.
    """

    chosen: list[Message]
    rejected: list[Message]
    tools: list[dict[str, Any]] | None
    left_out: Mapping[str, int]


@dataclass(frozen=True)
class Labelled:
    """A conversation, and whether its answer was liked."""

    messages: list[Message]
    liked: bool
    tools: list[dict[str, Any]] | None
    left_out: Mapping[str, int]


def read_pair(raw: Raw, options: SourceOptions) -> Pair | Rejected:
    """Read ``chosen`` and ``rejected``: texts behind a ``prompt``, turns with or without their prompt, transcripts.

    ms-swift's ``messages`` with ``rejected_response`` or ``rejected_messages`` are read too: the last turn is chosen.
    """
    left_out: Counter[str] = Counter()
    named = _with_question(raw, options)
    chosen = _side(raw, ("chosen", *_CONVERSATIONS) if not _has(raw, named, "chosen") else ("chosen",), named, left_out)
    rejected = _side(raw, _REJECTED, named, left_out)
    for side in (chosen, rejected):
        if isinstance(side, Rejected):
            return side
    assert not isinstance(chosen, Rejected) and not isinstance(rejected, Rejected)
    prompt = _prompt(raw, named, left_out)
    if isinstance(prompt, Rejected):
        return prompt
    return _pair(prompt, chosen, rejected, raw, named, left_out)


def _pair(
    prompt: list[Turn], chosen: list[Turn], rejected: list[Turn], raw: Raw, options: SourceOptions, counts: Counter[str]
) -> Pair | Rejected:
    if not any(turn["role"] == "user" for turn in rejected) and any(turn["role"] == "user" for turn in chosen):
        # ms-swift: only the answer is written twice
        rejected = [*chosen[: _last_answer(chosen)], *rejected]
    if any(turn["role"] == "user" for turn in chosen):
        prompt = _without_repeat(prompt, chosen, counts)
    left, right = [*prompt, *chosen], [*prompt, *rejected]
    same = next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), None)
    if same is None:
        return Rejected("chosen and rejected are the same")
    if left[same]["role"] != "assistant" or right[same]["role"] != "assistant":
        return Rejected("chosen and rejected answer different questions")
    # DPO's loss covers all behind the prompt, so a pair is one turn against another.
    counts[LATER_TURNS] += len(left) + len(right) - 2 * (same + 1)
    tools = tools_of(raw, options, counts)
    made = []
    for turns in (left, right):
        own = counts.copy()  # what both sides leave out is counted once
        started = with_system(from_first_question(turns[: same + 1], own), raw, options, own)
        row = conversation(_all_trained(started), tools, +own)
        if isinstance(row, Rejected):
            return row
        made.append(row)
    return Pair(made[0]["messages"], made[1]["messages"], made[0].get("tools"), made[0].get(LEFT_OUT, {}))


def _all_trained(turns: list[Turn]) -> list[Turn]:
    """A prompt's turns are told apart by their place here, not by a mark."""
    return [{key: value for key, value in turn.items() if key != "train"} for turn in turns]


def _last_answer(turns: list[Turn]) -> int:
    return max(place for place, turn in enumerate(turns) if turn["role"] == "assistant" or place == 0)


def _without_repeat(prompt: list[Turn], chosen: list[Turn], counts: Counter[str]) -> list[Turn]:
    """Return what of a prompt stands before turns that bring their question along (UltraFeedback): its system turn."""
    said = [turn.get("content") for turn in chosen]
    counts["prompt"] += sum(turn["role"] != "system" and turn.get("content") not in said for turn in prompt)
    return [turn for turn in prompt if turn["role"] == "system" and turn.get("content") not in said]


def read_labelled(raw: Raw, options: SourceOptions) -> Labelled | Rejected:
    """Read an answer and whether it was liked: ``prompt``, ``completion``, ``label``; or ``messages`` and a label."""
    left_out: Counter[str] = Counter()
    named = _with_question(raw, options)
    label = next((named.get(raw, key) for key in _LABELS if _has(raw, named, key)), None)
    liked = _TRUTH.get(str(label).lower())
    if liked is None:
        return Rejected("label is neither true nor false")
    column = next((key for key in _ANSWERS if _has(raw, named, key)), None)
    if column is None:
        turns = _side(raw, _CONVERSATIONS, named, left_out)
    else:
        turns = completion_turns(raw, column, named, left_out)
    prompt = _prompt(raw, named, left_out)
    for side in (turns, prompt):
        if isinstance(side, Rejected):
            return side
    assert not isinstance(turns, Rejected) and not isinstance(prompt, Rejected)
    started = with_system(from_first_question([*prompt, *turns], left_out), raw, named, left_out)
    row = conversation(started, tools_of(raw, named, left_out), left_out)
    if isinstance(row, Rejected):
        return row
    return Labelled(row["messages"], liked, row.get("tools"), row.get(LEFT_OUT, {}))


def preference(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """The chosen answer of a pair, for training on what was chosen; the rejected one is counted as left out."""
    pair = read_pair(raw, options)
    if isinstance(pair, Rejected):
        return pair
    counts = Counter(pair.left_out) + Counter({"rejected": 1})
    return {"messages": pair.chosen, **({"tools": pair.tools} if pair.tools else {}), LEFT_OUT: counts}


def kto(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """An answer that was liked, for training on it; one that was not is rejected."""
    labelled = read_labelled(raw, options)
    if isinstance(labelled, Rejected):
        return labelled
    if not labelled.liked:
        return Rejected("an answer that was not liked")
    row: Row = {"messages": labelled.messages, **({"tools": labelled.tools} if labelled.tools else {})}
    return row | ({LEFT_OUT: labelled.left_out} if labelled.left_out else {})


def is_labelled(raw: Raw) -> bool:
    """Tell whether a row says of an answer that it was liked or not; a class of something else is no such label."""
    answered = (_ASKS, _ANSWERS) if not any(key in raw for key in _CONVERSATIONS) else (_CONVERSATIONS,)
    labels = [raw[key] for key in _LABELS if key in raw]
    kept = any(isinstance(label, bool) or str(label).lower() in ("true", "false") for label in labels)
    return kept and all(any(key in raw for key in keys) for keys in answered)


def _has(raw: Raw, options: SourceOptions, key: str) -> bool:
    return options.columns.get(key, key) in raw


def _with_question(raw: Raw, options: SourceOptions) -> SourceOptions:
    """Return options whose columns name the question of this row, and Alpaca's input as its context."""
    columns = dict(options.columns)
    if "question" not in columns and (found := next((key for key in _ASKS if key in raw), None)) is not None:
        columns["question"] = found
        if found == "instruction":
            columns.setdefault("context", "input")
    return SourceOptions(columns, options.split)


def _prompt(raw: Raw, options: SourceOptions, counts: Counter[str]) -> list[Turn] | Rejected:
    """Return the prompt that stands in columns of its own: a question, or the turns before both answers."""
    if options.columns.get("question") in raw:
        return prompt_turns(raw, options, counts)
    if not _has(raw, options, "chosen"):
        return []
    turns = next((options.get(raw, key) for key in _CONVERSATIONS if _has(raw, options, key)), None)
    return [] if turns is None else read_turns(turns, counts)


def _side(raw: Raw, columns: tuple[str, ...], options: SourceOptions, counts: Counter[str]) -> list[Turn] | Rejected:
    column = next((key for key in columns if _has(raw, options, key)), columns[0])
    value = options.get(raw, column)
    if isinstance(value, str) and as_turns(value) is None and len(parts := _TRANSCRIPT.split(value)) > 2:
        said = list(zip(parts[1::2], parts[2::2], strict=True))
        if not parts[0].strip():
            return read_turns([{"from": who.lower(), "value": text.strip()} for who, text in said], counts)
    return completion_turns(raw, column, options, counts)
