"""Recorded agents: AgentGym's AgentTraj-L, conversations whose turns say whether they are trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentforge.data.sources.adapters.base import ROLES, Raw, Rejected, Row, SourceOptions, conversation


def agenttraj(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """AgentTraj-L: ``conversations`` of ``from``, ``value`` and ``loss``.

    Every assistant turn of a row is trained, so those with ``loss: false`` cannot stay. They stand at the beginning,
    where the agent only promises to obey: the instructions before them become the system turn and the promise is left
    out, which is the form of our own environments too. A row with one further on is rejected.
    """
    turns = options.get(raw, "conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        return Rejected("no conversation")
    roles = [ROLES.get(str(turn.get("from")).lower()) for turn in turns]
    if not set(roles) <= {"system", "user", "assistant"}:
        return Rejected("unknown role")
    untrained = [i for i, role in enumerate(roles) if role == "assistant" and turns[i].get("loss") is False]
    said = [{"role": role, "content": turn.get("value")} for role, turn in zip(roles, turns, strict=True)]
    if not untrained:
        return conversation(said)
    # The only shape that can be rewritten: instructions, the agent's promise (untrained), the first observation.
    if untrained != [1] or roles[:3] != ["user", "assistant", "user"]:
        return Rejected("untrained turn within the conversation")
    return conversation([_as_system(said[0]), *said[2:]])


def _as_system(turn: dict[str, Any]) -> dict[str, Any]:
    return turn | {"role": "system"}
