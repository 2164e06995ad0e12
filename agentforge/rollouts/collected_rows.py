"""Which episodes become training rows, and how the others are counted."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentforge.artifacts import hash_json
from agentforge.rollouts.episodes import Episode

ROWS = "rows.jsonl"


def write_rows(path: Path, episodes: Sequence[Episode], min_score: float, lost: Mapping[str, int]) -> dict[str, Any]:
    """Write the episodes that pass the filters as lines that `prepare` reads; returns the counts for the manifest.

    Args:
        min_score: episodes below are dropped.
        lost: how many episodes each environment lost by breaking.
    """
    groups: dict[str, list[Episode]] = defaultdict(list)
    kept: Counter[str] = Counter()
    dropped: Counter[str] = Counter({"environment failed": sum(lost.values())})
    seen: set[str] = set()
    with path.open("w", encoding="utf-8") as file:
        for episode in episodes:
            groups[episode.environment].append(episode)
            row: dict[str, Any] = {"messages": episode.messages, **({"tools": episode.tools} if episode.tools else {})}
            reason = _reason(episode, min_score)
            # Two seeds of a task without chance give one conversation; it would weigh double if it were trained twice.
            if reason is None and (content := hash_json(row)) in seen:
                reason = "duplicate"
            if reason is not None:
                dropped[reason] += 1
                continue
            seen.add(content)
            kept[episode.environment] += 1
            row |= {"environment": episode.environment, "task_id": episode.task_id, "score": episode.score}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    names = sorted({*groups, *lost})
    return {
        "episodes": len(episodes),
        "rows": kept.total(),
        "dropped": {reason: count for reason, count in dropped.most_common() if count},
        "environments": {name: _figures(groups[name], kept[name], lost.get(name, 0)) for name in names},
    }


def _reason(episode: Episode, min_score: float) -> str | None:
    if not episode.turns:
        return "no turn: the prompt is too long, or the expert knows no action"
    return f"score below {min_score:g}" if episode.score < min_score else None


def _figures(episodes: Sequence[Episode], rows: int, lost: int) -> dict[str, Any]:
    figures: dict[str, Any] = {"episodes": len(episodes), "rows": rows, "lost": lost}
    if not episodes:
        return figures
    means: dict[str, list[float]] = {
        "mean_score": [episode.score for episode in episodes],
        "success": [episode.success for episode in episodes],
        "truncated": [episode.truncated for episode in episodes],
        "valid_actions": [episode.valid_actions for episode in episodes],
        "turns": [len(episode.turns) for episode in episodes],
    }
    return figures | {name: round(sum(values) / len(values), 4) for name, values in means.items()}
