"""A few whole episodes of an evaluation, for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agentforge.rollouts.episode_store import EPISODES, read_episodes, write_episodes
from agentforge.rollouts.episodes import Episode

OF_EACH_KIND = 3
"""How many successes, and how many failures, are kept for each environment."""


def write_examples(episodes: Sequence[Episode], path: Path) -> None:
    """Write the first episodes that succeeded and the first that did not, of each environment."""
    kept: dict[tuple[str, bool], list[Episode]] = {}
    for episode in episodes:
        # The first of each kind, not the best: chosen examples would flatter.
        kept.setdefault((episode.environment, episode.success), []).append(episode)
    write_episodes(path, (episode for found in kept.values() for episode in found[:OF_EACH_KIND]))


def read_examples(directory: Path) -> list[Episode]:
    """Return the episodes that an evaluation kept."""
    path = directory / EPISODES
    return list(read_episodes(path)) if path.is_file() else []
