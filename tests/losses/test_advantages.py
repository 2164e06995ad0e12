"""GAE against the definition, written as the double sum it is."""

from __future__ import annotations

import random

import pytest
import torch

from agentforge.losses.advantages import gae, whiten


def episode(rng: random.Random) -> tuple[list[int], list[int], list[float]]:
    """Mask, ends and rewards of turns of the model with text of the environment (or none) between them."""
    mask: list[int] = []
    ends: list[int] = []
    rewards: list[float] = []
    for _ in range(rng.randint(1, 4)):
        length = rng.randint(1, 4)
        mask += [1] * length
        ends += [0] * (length - 1) + [1]
        rewards += [0.0] * (length - 1) + [rng.uniform(-1, 1)]
        gap = rng.randint(0, 3)
        mask += [0] * gap
        ends += [0] * gap
        rewards += [0.0] * gap
    return mask, ends, rewards


def by_definition(
    mask: list[int], ends: list[int], rewards: list[float], values: list[float], gamma: float, lam: float
) -> list[float]:
    """A_t = sum over l of (prod of the gammas and lambdas between) * delta_{t+l}, over the model's tokens alone."""
    steps = [t for t, inside in enumerate(mask) if inside]
    g = [gamma if ends[t] else 1.0 for t in steps]
    decay = [gamma * lam if ends[t] else 1.0 for t in steps]
    v = [values[t] for t in steps] + [0.0]
    delta = [rewards[t] + g[i] * v[i + 1] - v[i] for i, t in enumerate(steps)]
    found = [0.0] * len(mask)
    for i, t in enumerate(steps):
        weight = 1.0
        for j in range(i, len(steps)):
            found[t] += weight * delta[j]
            weight *= decay[j]
    return found


@pytest.mark.parametrize("gamma,lam", [(0.99, 0.95), (1.0, 1.0), (0.5, 0.0), (0.9, 0.3)])
def test_gae_is_the_double_sum_over_the_models_tokens(gamma: float, lam: float) -> None:
    rng = random.Random(f"{gamma}/{lam}")
    rows = [episode(rng) for _ in range(20)]
    width = max(len(mask) for mask, _, _ in rows) + 2
    mask, ends, rewards = (
        torch.tensor([[*row[i], *[0] * (width - len(row[i]))] for row in rows], dtype=torch.float64) for i in range(3)
    )
    values = torch.randn(mask.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = gae(rewards, values, mask, ends, gamma, lam)
    for row, (m, e, r) in enumerate(rows):
        expected = by_definition(m, e, r, values[row].tolist(), gamma, lam)
        assert found[row, : len(m)].tolist() == pytest.approx(expected, abs=1e-12)
        assert not found[row, len(m) :].any()


def test_what_the_environment_wrote_changes_nothing() -> None:
    mask = torch.tensor([[1.0, 0, 0, 1]])
    values = torch.tensor([[0.3, 5.0, -7.0, 0.1]])
    rewards, ends = torch.tensor([[0.5, 0, 0, 1.0]]), torch.tensor([[1.0, 0, 0, 1]])
    a = gae(rewards, values, mask, ends, 0.9, 0.8)
    b = gae(rewards, values * mask, mask, ends, 0.9, 0.8)
    assert torch.equal(a, b)
    last = 1.0 - 0.1
    assert a[0].tolist() == pytest.approx([0.5 + 0.9 * 0.1 - 0.3 + 0.9 * 0.8 * last, 0, 0, last])


def test_an_episode_without_model_tokens_has_no_advantage() -> None:
    nothing = torch.zeros(2, 3)
    assert not gae(nothing, torch.ones(2, 3), nothing, nothing, 0.9, 0.9).any()


def test_whitened_advantages_have_mean_0_and_variance_1_over_the_masked_tokens() -> None:
    mask = (torch.rand(5, 7, generator=torch.Generator().manual_seed(1)) > 0.4).float()
    found = whiten(torch.randn(5, 7, generator=torch.Generator().manual_seed(2)) * 3 + 1, mask)
    inside = found[mask.bool()]
    assert inside.mean().item() == pytest.approx(0, abs=1e-6)
    assert inside.var(unbiased=False).item() == pytest.approx(1, abs=1e-5)
    assert not found[~mask.bool()].any()
