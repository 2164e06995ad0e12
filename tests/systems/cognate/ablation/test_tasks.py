"""Tasks: every label is right by brute force, no position sees its own answer, and the levels are what they claim."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from agentforge.systems.cognate.ablation.tasks.base import UNLABELLED, Task, seeded
from agentforge.systems.cognate.ablation.tasks.modular_addition import ModularAddition
from agentforge.systems.cognate.ablation.tasks.recall import KEYS, NOISE, VALUES, Recall
from agentforge.systems.cognate.ablation.tasks.state_tracking import ELEMENTS, END, RunningProduct
from agentforge.systems.cognate.ablation.tasks.sudoku import CELLS, SOLVE, Sudoku, all_grids

TASKS: list[Task] = [Recall(), RunningProduct(), ModularAddition(), Sudoku()]
every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


@every_task
def test_rows_are_well_formed_and_depend_on_the_seed_alone(task: Task) -> None:
    one, same, other = (task.train_batch(16, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.input_ids, same.input_ids) and torch.equal(one.labels, same.labels)
    assert one.input_ids.shape != other.input_ids.shape or not torch.equal(one.input_ids, other.input_ids)
    for batch in (one, *task.test_batches().values()):
        assert batch.input_ids.shape == batch.labels.shape == batch.scored.shape
        assert batch.input_ids.min() >= 0 and batch.input_ids.max() < task.vocab_size
        known = batch.labels[batch.labels != UNLABELLED]
        assert known.min() >= 0 and known.max() < task.vocab_size
        assert batch.scored.any(1).all() and not (batch.scored & (batch.labels == UNLABELLED)).any()
        assert not batch.scored[:, 0].any(), "nothing stands before the first token that could answer for it"
    assert 0 < task.chance < task.trivial < 1


@every_task
def test_no_input_shows_an_answer_that_a_later_position_has_to_give(task: Task) -> None:
    """At a scored place the input is the same token in every row, or agrees with the answer by chance alone.

    Or it is the answer, as in any text, and then nothing behind it is scored: the model is causal.
    """
    batch = task.train_batch(4096 if task.name != "4x4 Sudoku" else 256, seeded(3))
    places = batch.scored.any(0).nonzero().flatten().tolist()
    for place in places:
        asked = batch.scored[:, place]
        shown, answer = batch.input_ids[asked, place], batch.labels[asked, place]
        agree = (shown == answer).float().mean().item()
        blank = len(shown.unique()) == 1
        assert blank or agree == pytest.approx(task.chance, abs=0.06) or place == places[-1], place


def test_recall_asks_for_values_that_were_shown() -> None:
    task = Recall()
    batch = task.batch(64, gap=20, generator=seeded(0))
    assert batch.input_ids.shape == (64, 2 * 4 + 20 + 2 * 4)
    for row, labels, scored in zip(batch.input_ids.tolist(), batch.labels.tolist(), batch.scored.tolist(), strict=True):
        values = dict(zip(row[:8:2], row[1:8:2], strict=True))
        answers = [values[key] for key in row[28::2]]
        assert row[29::2] == labels[29::2] == answers
        assert [place for place, label in enumerate(labels) if label != UNLABELLED] == [29, 31, 33, 35]
        assert [place for place, one in enumerate(scored) if one] == [29], "the first answer alone"
    assert set(KEYS) | set(VALUES) | set(NOISE) | {0} == set(range(63)), "kinds of tokens do not overlap"
    gaps = {task.train_batch(2, seeded(seed)).input_ids.shape[1] - 16 for seed in range(300)}
    assert gaps == set(range(16, 33))


def test_recall_draws_queries_with_replacement() -> None:
    batch = Recall().batch(512, gap=4, generator=seeded(0))
    distinct = [len(set(row[12::2])) for row in batch.input_ids.tolist()]
    # Four draws of four: all different in 4! / 4^4 of the rows.
    assert sum(one == 4 for one in distinct) / 512 == pytest.approx(24 / 256, abs=0.04)


def test_a_bag_of_values_has_the_stated_level_at_recall() -> None:
    task = Recall()
    batch = task.batch(20_000, gap=4, generator=seeded(0))
    guesses = batch.input_ids[:, 1:8:2].gather(1, torch.randint(4, (20_000, 1), generator=seeded(9)))
    assert (guesses[:, 0] == batch.labels[batch.scored]).float().mean() == pytest.approx(task.trivial, abs=0.01)


def test_products_are_those_of_permutations() -> None:
    batch = RunningProduct(length=6).train_batch(64, seeded(0))
    for row, labels in zip(batch.input_ids.tolist(), batch.labels.tolist(), strict=True):
        assert row[-1] == END
        state = (0, 1, 2)
        for token, label in zip(row[:-1], labels[1:], strict=True):
            # Apply what was there first, then the new element, to each of the three things.
            state = tuple(ELEMENTS[token][place] for place in state)
            assert ELEMENTS[label] == state


def test_every_sum_is_in_one_half_alone() -> None:
    task = ModularAddition(modulus=13)
    held_out, trained = task.test_batches().values()
    pairs = [tuple(row[:2]) for batch in (held_out, trained) for row in batch.input_ids.tolist()]
    assert sorted(pairs) == list(product(range(13), repeat=2))
    for batch in (held_out, trained):
        assert ((batch.input_ids[:, 0] + batch.input_ids[:, 1]) % 13 == batch.labels[:, -1]).all()
    drawn = {tuple(row[:2]) for row in task.train_batch(2000, seeded(0)).input_ids.tolist()}
    assert drawn == {tuple(row[:2]) for row in trained.input_ids.tolist()}


def test_swapping_the_numbers_has_the_stated_level_at_addition() -> None:
    task = ModularAddition()
    held_out, trained = task.test_batches().values()
    known = {tuple(row[:2]) for row in trained.input_ids.tolist()}
    swapped = sum((y, x) in known for x, y, *_ in held_out.input_ids.tolist()) / len(held_out.input_ids)
    assert swapped + (1 - swapped) * task.chance == pytest.approx(task.trivial, abs=0.02)


def valid(grid: list[int]) -> bool:
    groups = [[grid[4 * i + j] for j in range(4)] for i in range(4)]
    groups += [[grid[4 * j + i] for j in range(4)] for i in range(4)]
    groups += [[grid[4 * (2 * r + i) + 2 * c + j] for i in (0, 1) for j in (0, 1)] for r in (0, 1) for c in (0, 1)]
    return all(sorted(group) == [1, 2, 3, 4] for group in groups)


def test_a_puzzle_has_one_solution_and_the_labels_are_it() -> None:
    grids = all_grids().tolist()
    assert len(grids) == 288 and all(map(valid, grids))
    batch = Sudoku().train_batch(24, seeded(0))
    for row, labels, scored in zip(batch.input_ids.tolist(), batch.labels.tolist(), batch.scored, strict=True):
        puzzle = row[:CELLS]
        assert sum(cell != 0 for cell in puzzle) == 6 and row[CELLS:] == [SOLVE] + [0] * CELLS
        fitting = [grid for grid in grids if all(g in (0, s) for g, s in zip(puzzle, grid, strict=True))]
        assert fitting == [labels[CELLS + 1 :]]
        assert [not s for s in scored[CELLS + 1 :].tolist()] == [cell != 0 for cell in puzzle]


def test_no_grid_of_the_test_is_trained_on() -> None:
    task = Sudoku()
    test = {tuple(row[CELLS + 1 :]) for row in task.test_batches()["held out"].labels.tolist()}
    trained = {tuple(row[CELLS + 1 :]) for row in task.train_batch(600, seeded(0)).labels.tolist()}
    assert len(test) == 48 and not test & trained


def test_crossing_off_has_the_stated_level_at_sudoku() -> None:
    task = Sudoku()
    batch, generator = task.test_batches()["held out"], torch.Generator().manual_seed(1)
    right = asked = 0
    for row, labels in zip(batch.input_ids.tolist(), batch.labels.tolist(), strict=True):
        for cell in range(CELLS):
            if row[cell]:
                continue
            r, c = divmod(cell, 4)
            used = {
                row[4 * i + j]
                for i in range(4)
                for j in range(4)
                if i == r or j == c or (i // 2 == r // 2 and j // 2 == c // 2)
            }
            free = [digit for digit in (1, 2, 3, 4) if digit not in used]
            guess = free[int(torch.randint(len(free), (), generator=generator))]
            right, asked = right + (guess == labels[CELLS + 1 + cell]), asked + 1
    assert right / asked == pytest.approx(task.trivial, abs=0.02)
