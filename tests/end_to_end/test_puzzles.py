"""`agentforge run puzzles`: GRPO on a task of reasoning-gym, from collected episodes to scores and a report."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentforge.evaluation.scores_file import read_scores
from agentforge.training_log import read_metrics
from tests.end_to_end.conftest import agentforge

pytest.importorskip("reasoning_gym", reason="the extra reasoning-gym is not installed")
pytestmark = pytest.mark.end_to_end

GRPO = "runs/puzzles/Puzzles-Tiny-GRPO-v1.0.0"
SMALL = ["collect.episodes=60", "evaluate.environments.tasks=8", "train.args.max_steps=3", "train.args.save_steps=3"]


def test_from_episodes_to_a_report(tmp_path: Path) -> None:
    """All stages of the shipped recipe with its tiny profile, with sizes that take seconds."""
    agentforge(tmp_path, "run", "puzzles", "--profile", "tiny", *SMALL)
    steps = [line for line in read_metrics(tmp_path / f"{GRPO}-model" / "metrics.jsonl") if "valid_actions" in line]
    assert len(steps) == 3 and all("success/reasoning-gym:chain_sum" in line for line in steps)
    for model in ("base", "model"):
        scores = read_scores(tmp_path / f"{GRPO}-eval-{model}")
        assert "reasoning-gym:chain_sum" in str(scores)
    said = agentforge(tmp_path, "compare", "puzzles", "--profile", "tiny", *SMALL).stdout
    assert "chain_sum" in said
