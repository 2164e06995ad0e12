"""Recorded agents: AgentGym's AgentTraj-L, conversations whose turns say whether they are trained."""

from __future__ import annotations

from collections import Counter

from agentforge.data.sources.adapters.base import Raw, Rejected, Row, SourceOptions, conversation
from agentforge.data.sources.adapters.turns import read_turns


def agenttraj(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """AgentTraj-L: ``conversations`` of ``from``, ``value`` and ``loss``.

    The turn with ``loss: false`` stands at the beginning, where the agent only promises to obey: the instructions
    before it become the system turn and the promise is left out, which is the form of our own environments too. Such a
    turn anywhere else is read and not trained.
    """
    left_out: Counter[str] = Counter()
    turns = read_turns(options.get(raw, "conversations"), left_out)
    if isinstance(turns, Rejected):
        return turns
    # The shape that is rewritten: instructions, the agent's promise (untrained), the first observation.
    if [turn["role"] for turn in turns[:3]] == ["user", "assistant", "user"] and turns[1].get("train") is False:
        left_out["the agent's promise"] += 1
        turns = [turns[0] | {"role": "system"}, *turns[2:]]
    return conversation(turns, left_out=left_out)
