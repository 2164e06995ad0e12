"""Playing the same episodes in two ways, and checking that they are the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from agentforge.rollouts.environment_pool import EnvironmentPool
from agentforge.rollouts.episodes import Episode
from agentforge.rollouts.play import play
from agentforge.rollouts.policies.base import Sampling
from agentforge.rollouts.policies.transformers_policy import TransformersPolicy
from agentforge.rollouts.scheduler import Task
from tests.rollouts.players import TOYS

GREEDY = Sampling(max_new_tokens=9)
DRAWN = Sampling(max_new_tokens=9, temperature=0.7, top_p=0.9, seed=3)
TASKS = [Task("count", task, seed) for seed in (0, 1) for task in (3, 0, 7)] + [Task("add", task) for task in (3, 44)]


def played(policy: TransformersPolicy, sampling: Sampling, batch_size: int = 3, tasks: Any = None) -> list[Episode]:
    with EnvironmentPool(TOYS) as pool:
        return play(policy, pool, TASKS if tasks is None else tasks, sampling=sampling, batch_size=batch_size)


def assert_same(ours: list[Episode], theirs: list[Episode]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert (a.prompt_ids, a.token_ids, a.mask) == (b.prompt_ids, b.token_ids, b.mask)
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


def reference(policy: TransformersPolicy, episode: Episode, sampling: Sampling) -> None:
    """Check an episode against one plain forward over all of it."""
    whole = torch.tensor([episode.prompt_ids + episode.token_ids])
    with torch.no_grad():
        logits = policy.model.eval()(whole).logits[0, len(episode.prompt_ids) - 1 : -1]
    if sampling.temperature:
        logits = logits / sampling.temperature
    for row, token, sampled, logprob in zip(logits, episode.token_ids, episode.mask, episode.logprobs, strict=True):
        if not sampled:
            continue
        if not sampling.temperature:
            assert token == int(row.argmax())
            expected = float(row.log_softmax(-1)[token])
        else:
            by_mass = row.softmax(-1).sort(descending=True)
            kept = int((by_mass.values.cumsum(-1) < sampling.top_p).sum()) + 1
            assert token in by_mass.indices[:kept].tolist()
            expected = float(torch.log(row.softmax(-1)[token] / by_mass.values[:kept].sum()))
        assert logprob == pytest.approx(expected, abs=1e-4)
