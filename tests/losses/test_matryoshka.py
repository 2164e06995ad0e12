"""Which widths a step trains, and what they learn."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import torch
from torch.nn import functional

from agentforge.losses.matryoshka import MIXED, inplace_distillation, mix, sandwich

HALF, QUARTER, EIGHTH = Fraction(1, 2), Fraction(1, 4), Fraction(1, 8)


def test_the_narrowest_is_always_trained_and_the_rest_are_drawn_evenly() -> None:
    seen: Counter[object] = Counter()
    for step in range(900):
        drawn = sandwich([QUARTER, HALF, EIGHTH], count=1, mixed=True, seed=7, step=step)
        assert drawn[0] == EIGHTH and len(drawn) == 2
        seen[drawn[1]] += 1
    assert set(seen) == {HALF, QUARTER, MIXED}
    assert all(240 < count < 360 for count in seen.values())


def test_the_draw_is_of_the_seed_and_the_step_alone() -> None:
    def run(seed: int) -> list[object]:
        return [sandwich([HALF, QUARTER, EIGHTH], count=1, mixed=False, seed=seed, step=step) for step in range(40)]

    assert run(1) == run(1) != run(2)
    assert mix([HALF], 8, seed=1, step=3) == mix([HALF], 8, seed=1, step=3) != mix([HALF], 8, seed=1, step=4)


def test_no_more_are_drawn_than_there_are() -> None:
    assert sandwich([HALF, QUARTER], count=5, mixed=False, seed=0, step=0) == [QUARTER, HALF]
    assert sandwich([HALF], count=2, mixed=False, seed=0, step=0) == [HALF]


def test_a_mix_has_full_and_narrow_layers() -> None:
    widths = mix([HALF, QUARTER], 200, seed=0, step=0)
    assert {width for pair in widths for width in pair} == {Fraction(1), HALF, QUARTER}
    assert len({*widths}) == 9, "MLP and mixers are drawn apart"


def test_the_narrow_model_learns_from_labels_and_from_the_full_one() -> None:
    narrow, full = torch.randn(6, 5, dtype=torch.float64, requires_grad=True), torch.randn(6, 5, dtype=torch.float64)
    targets = torch.tensor([0, 1, 2, 3, 4, 0])
    loss, entropy, divergence = inplace_distillation(narrow, full, targets, alpha=0.25, temperature=2.0)
    hard = functional.cross_entropy(narrow, targets, reduction="sum")
    soft = 4 * functional.kl_div((narrow / 2).log_softmax(-1), (full / 2).softmax(-1), reduction="sum")
    torch.testing.assert_close(loss, 0.25 * soft + 0.75 * hard)
    torch.testing.assert_close((entropy, divergence), (hard.detach(), soft.detach()))
