"""Singular values become 1, at any shape and scale, and the polynomials are what their comment says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from agentforge.optim.orthogonal import POLYNOMIALS, matched_scale, orthogonalized


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def values(matrix: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(matrix.double())


@pytest.mark.parametrize(("rows", "columns"), [(256, 64), (64, 256), (65, 130), (130, 65)])
def test_singular_values_of_rectangles_come_near_one(rows: int, columns: int) -> None:
    for found in orthogonalized(random(3, rows, columns)):
        assert values(found).min() > 0.65 and values(found).max() < 1.35


def test_of_a_square_the_largest_is_bounded_and_most_are_near_one() -> None:
    # A random square has singular values down to 0, which no polynomial brings up: the smallest is not tested.
    found = values(orthogonalized(random(1, 128, 128))[0])
    assert found.max() < 1.35
    assert found.median() > 0.65


def test_singular_vectors_stay() -> None:
    given = random(1, 40, 100)
    u, _, v = torch.linalg.svd(given[0].double(), full_matrices=False)
    inside = u.T @ orthogonalized(given)[0].double() @ v.T
    assert torch.allclose(inside, torch.diag(inside.diagonal()), atol=2e-4)


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (1, 1)])
def test_rows_and_columns_become_unit_vectors(shape: tuple[int, int]) -> None:
    given = random(2, *shape)
    found = orthogonalized(given)
    for before, after in zip(given, found, strict=True):
        assert torch.allclose(after / after.norm(), before / before.norm(), atol=1e-5)
        assert 0.65 < after.norm() < 1.35


@pytest.mark.parametrize("shape", [(32, 32), (32, 100), (100, 32)])
def test_the_scale_of_the_input_does_not_matter(shape: tuple[int, int]) -> None:
    given = random(2, *shape)
    for scale in (1e-7, 1e6):
        assert torch.allclose(orthogonalized(given * scale), orthogonalized(given), atol=1e-4)


def test_zeros_stay_zeros() -> None:
    assert orthogonalized(torch.zeros(2, 8, 24)).abs().max() == 0


def test_both_ways_to_multiply_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    given = random(2, 32, 96)
    inside = orthogonalized(given)
    monkeypatch.setattr("agentforge.optim.orthogonal.WIDE", 1000.0)
    assert torch.allclose(orthogonalized(given), inside, atol=1e-3)


def test_each_polynomial_is_the_best_on_what_the_one_before_leaves() -> None:
    low, high = 1 / 468.2, 1.0
    for given in POLYNOMIALS:
        best, error = nearest_to_one(low, high)
        assert given == pytest.approx(best, abs=0.02)
        low, high = 1 - error, 1 + error
    assert (low, high) == pytest.approx((0.7, 1.3), abs=0.005)


def nearest_to_one(low: float, high: float) -> tuple[list[float], float]:
    """Return the odd quintic that minimises the largest distance to 1, by linear programming."""
    x = np.concatenate([np.linspace(low, high, 800), np.geomspace(low, high, 400)])
    powers, ones = np.stack([x, x**3, x**5], axis=1), np.ones((len(x), 1))
    bounds = np.block([[powers, -ones], [-powers, -ones]])
    result = linprog(
        [0, 0, 0, 1], A_ub=bounds, b_ub=np.r_[ones[:, 0], -ones[:, 0]], bounds=[(None, None)] * 4, method="highs"
    )
    return list(result.x[:3]), float(result.x[3])


def test_the_scale_matches_the_updates_of_adamw() -> None:
    update = orthogonalized(random(1, 64, 256))[0] * matched_scale(64, 256)
    assert update.square().mean().sqrt() == pytest.approx(0.2, rel=0.2)
