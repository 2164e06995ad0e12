"""A GGUF file answers as the checkpoint that it was made from."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentforge.evaluation.benchmarks.evaluate_benchmarks import load_tasks, open_lm
from agentforge.models.locate_model import locate_path
from agentforge.recipe.schema import Benchmarks

pytestmark = pytest.mark.gguf


def test_likelihoods_and_answers_are_those_of_the_checkpoint(
    talking_checkpoint: Path, talking_gguf: Path, tasks: dict[str, str]
) -> None:
    loaded = load_tasks(Benchmarks(tasks=list(tasks.values())), None)
    for task in loaded.values():
        task.build_all_requests(limit=4)
    theirs = open_lm(locate_path(str(talking_checkpoint)), 1)
    ours = open_lm(locate_path(str(talking_gguf)), 1)
    chosen, written = loaded["toy_choice"].instances, loaded["toy_write"].instances
    pairs = zip(theirs.loglikelihood(chosen, True), ours.loglikelihood(chosen, True), strict=True)
    for (expected, greedy), (found, also) in pairs:
        assert found == pytest.approx(expected, abs=5e-3)
        assert greedy == also
    assert ours.generate_until(written, True) == theirs.generate_until(written, True)
    whole = loaded["toy_write"].instances[0]
    whole.arguments = ("Hello, I am AJ.",)
    rolling = theirs.loglikelihood_rolling([whole], True)
    assert ours.loglikelihood_rolling([whole], True) == pytest.approx(rolling, rel=1e-3)
    assert ours.apply_chat_template([{"role": "user", "content": "Hi"}]) == theirs.apply_chat_template(
        [{"role": "user", "content": "Hi"}]
    )
