"""Episodes in Parquet come back as they were, and files of something else are refused."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agentforge.data import chat_template
from agentforge.errors import UserError
from agentforge.rollouts import episode_store
from agentforge.rollouts.environment_pool import EnvironmentPool
from agentforge.rollouts.episode_store import read_episodes, write_episodes
from agentforge.rollouts.experts import Expert
from agentforge.rollouts.play import play
from agentforge.rollouts.policies.base import Sampling
from agentforge.rollouts.scheduler import Task
from tests.data.small_tokenizers import chatml_tokenizer
from tests.rollouts.players import TOYS, random_policy


def test_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = chatml_tokenizer()
    chat_template.install_template(tokenizer)
    tasks = [Task("count", task, seed=task) for task in range(5)]
    with EnvironmentPool(TOYS) as pool:
        sampling = Sampling(6, temperature=1.0)
        episodes = play(random_policy(tokenizer), pool, tasks, sampling=sampling, max_length=190)
        episodes += play(Expert(), pool, tasks, sampling=sampling, act="tool")
    assert any(e.truncated for e in episodes) and any(e.tools for e in episodes)
    monkeypatch.setattr(episode_store, "ROWS", 3)
    assert write_episodes(tmp_path / "e.parquet", iter(episodes)) == 10
    assert list(read_episodes(tmp_path / "e.parquet")) == episodes
    assert [path.name for path in tmp_path.iterdir()] == ["e.parquet"]


def test_no_episodes(tmp_path: Path) -> None:
    assert write_episodes(tmp_path / "e.parquet", []) == 0
    assert list(read_episodes(tmp_path / "e.parquet")) == []


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no parquet")
    pq.write_table(pa.table({"task_id": [1]}), tmp_path / "other")
    for name, problem in (
        ("text", "not a file of episodes: "),
        ("other", "no column .*score"),
        ("gone", "not a file of episodes"),
    ):
        with pytest.raises(UserError, match=problem):
            list(read_episodes(tmp_path / name))
