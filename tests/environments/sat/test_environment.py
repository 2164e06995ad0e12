"""affine:sat: formulas as hard as they should be, judged by a solver, and no way to score without solving."""

from __future__ import annotations

import itertools
import subprocess
import sys
from random import Random
from statistics import median
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentforge.environments.base import Step
from agentforge.environments.sat.calibration import last_satisfiable, measure
from agentforge.environments.sat.environment import Sat
from agentforge.environments.sat.formulas import (
    Clause,
    Formula,
    assignment_text,
    draw_clauses,
    planted,
    unbiased_weight,
    uniform,
)
from agentforge.environments.sat.threshold import limit, measured, threshold_ratio
from agentforge.environments.splits import split_of, task_ids
from agentforge.errors import UserError

PARITY = Formula(2, ((1, 2), (-1, -2)))
NOTHING = Formula(1, ((1,), (-1,)))


def playing(formula: Formula, **options: object) -> Sat:
    """An environment in the middle of an episode with a formula of our own."""
    environment = Sat(n_vars=4, k=2, ratio=1, **options)  # type: ignore[arg-type]
    environment.reset(0, 0)
    environment._formula = formula
    return environment


def brute_force(formula: Formula) -> set[tuple[bool, ...]]:
    return {
        values
        for values in itertools.product([False, True], repeat=formula.n_vars)
        if all(any(values[abs(x) - 1] == (x > 0) for x in clause) for clause in formula.clauses)
    }


@settings(deadline=None, max_examples=60)
@given(st.integers(3, 6), st.integers(2, 3), st.integers(1, 11), st.integers(0, 1 << 30))
def test_solver_and_check_agree_with_trying_everything(n: int, k: int, count: int, seed: int) -> None:
    formula = uniform(n, k, min(count, 7), Random(seed))
    solutions = brute_force(formula)
    solution = formula.solve()
    assert (solution is not None) == bool(solutions)
    assert solution is None or tuple(solution[v] for v in range(1, n + 1)) in solutions
    for values in itertools.product([False, True], repeat=n):
        assert (not formula.falsified(dict(enumerate(values, 1)))) == (values in solutions)


def test_uniform_clauses_are_distinct_and_balanced() -> None:
    assert len(set(draw_clauses(4, 2, Random(0)))) == 24
    counts: dict[Clause, int] = {}
    for seed in range(3000):
        for clause in uniform(4, 2, 6, Random(seed)).clauses:
            counts[clause] = counts.get(clause, 0) + 1
    assert len(counts) == 24
    assert all(650 < count < 850 for count in counts.values())  # 750 expected, sd 24


def test_two_formulas_in_another_order_are_one() -> None:
    assert Formula(3, ((1, 2), (-1, 3))).digest() == Formula(3, ((3, -1), (2, 1))).digest()
    assert Formula(3, ((1, 2), (-1, 3))).digest() != Formula(3, ((1, 2), (1, 3))).digest()


# -- the threshold --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "k"), [(10, 3), (20, 3), (10, 4), (10, 5)])
def test_half_of_the_formulas_are_satisfiable_at_the_threshold(n: int, k: int) -> None:
    count = round(n * threshold_ratio(n, k))
    satisfiable = sum(uniform(n, k, count, Random(f"{n}/{k}/{i}")).solve() is not None for i in range(300))
    assert 0.38 < satisfiable / 300 < 0.62


def test_growing_formula_turns_unsatisfiable_where_trying_everything_says() -> None:
    for seed in range(30):
        clauses = list(draw_clauses(4, 3, Random(seed)))
        counts = [m for m in range(len(clauses) + 1) if brute_force(Formula(4, tuple(clauses[:m])))]
        assert last_satisfiable(4, 3, Random(seed)) == max(counts)


def test_table_is_what_the_script_measures() -> None:
    again = measure(8, 3, 200)
    assert again == pytest.approx(threshold_ratio(8, 3), abs=0.3)
    medians = median(last_satisfiable(5, 2, Random(seed)) for seed in range(200))
    assert medians / 5 == pytest.approx(threshold_ratio(5, 2), abs=0.21)


def test_ratio_falls_towards_the_limit() -> None:
    ratios = [threshold_ratio(n, 3) for n in (10, 20, 50, 100, 200, 1000, 100_000)]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] == pytest.approx(4.267, abs=1e-3)
    between = threshold_ratio(35, 3)
    assert threshold_ratio(40, 3) <= between <= threshold_ratio(30, 3)
    assert limit(8) == pytest.approx(176.6, abs=0.1)
    assert {3, 4, 5} <= set(measured())


# -- trivial strategies ---------------------------------------------------------------------------------------------


def share(environment: Sat, baseline: str, count: int) -> float:
    random = Random(0)
    won = 0
    for task in range(count):
        environment.reset(0, task)
        text = environment.expert() if baseline == "expert" else environment.baseline(baseline, random)
        won += environment.step(text).info["success"]
    return won / count


@pytest.mark.parametrize("is_planted", [False, True])
def test_no_trivial_strategy_scores_at_the_threshold(is_planted: bool) -> None:
    environment = Sat(n_vars=15, k=3, ratio=4.26, planted=is_planted)
    assert share(environment, "random", 150) < 0.02
    assert share(environment, "all_true", 150) < 0.02
    assert share(environment, "majority", 200) < 0.06  # measured on 1000: 1.7 %, planted 1.0 %
    assert share(environment, "always_unsat", 100) == 0
    assert share(environment, "expert", 100) == 1


def test_naive_planting_would_have_shown_the_solution() -> None:
    """The control of the test above: where one literal is made true and the others are random, majority wins half."""
    won = 0
    for seed in range(200):
        random = Random(seed)
        hidden = {v: random.random() < 0.5 for v in range(1, 16)}
        clauses = []
        for _ in range(64):
            chosen = random.sample(range(1, 16), 3)
            clause = [v if hidden[v] else -v for v in chosen[:1]] + [random.choice([v, -v]) for v in chosen[1:]]
            clauses.append(tuple(clause))
        formula = Formula(15, tuple(clauses))
        won += not formula.falsified(formula.majority())
    assert won / 200 > 0.35  # published as 53 %


def test_planting_favours_no_sign() -> None:
    assert unbiased_weight(2) == 0
    assert unbiased_weight(3) == pytest.approx((5**0.5 - 1) / 2)
    formula = planted(300, 3, 1200, Random(1))
    solution = formula.solve()
    assert solution is not None


# -- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "success", "valid"),
    [
        ("x1=True, x2=False", True, True),
        ("X1 = true\nx2 = 0", True, True),
        ("x1=True, x2=True. No: x1=True, x2=False", True, True),
        ("x1=True, x2=False, so x2=True", False, True),
        ("<think>x1=True, x2=False</think>x1=True, x2=True", False, True),
        ("<think>x1=True, x2=False", False, False),
        ('<tool_call>{"name": "act", "arguments": {"action": "x1=False, x2=True"}}</tool_call>', True, True),
        ("x1=True", False, False),
        ("x1=True, x3=False", False, False),
        ("x1=Truely, x2=False", False, False),
        ("max1=True, x2=False", False, False),
        ("x1=10, x2=False", False, False),
        ("UNSAT", False, False),
        ("", False, False),
        ("x" * 100_000, False, False),
        ("x1=True, x2=False, x99999999999=True", True, True),
    ],
)
def test_answers(text: str, success: bool, valid: bool) -> None:
    step = playing(PARITY).step(text)
    assert (step.info["success"], step.info["valid_action"], step.reward) == (success, valid, float(success))
    assert step.terminated
    assert ("problem" in step.info) == (not valid)


def test_unsat_scores_only_if_the_solver_agrees() -> None:
    assert not playing(PARITY, unsat_share=0.5).step("UNSAT").info["success"]
    assert playing(NOTHING, unsat_share=0.5).step("It is unsat").info["success"]
    assert not playing(NOTHING, unsat_share=0.5).step("UNSAT? x1=True").info["success"]
    assert not playing(NOTHING, unsat_share=0.5).step("UNSATISFIABLE").info["valid_action"]
    assert playing(NOTHING, unsat_share=0.5).expert() == "UNSAT"


def test_share_of_unsat() -> None:
    environment = Sat(n_vars=8, k=3, unsat_share=0.3)
    solvable = [environment.formula(task).solve() is not None for task in range(300)]
    assert 0.2 < 1 - sum(solvable) / 300 < 0.4
    assert share(environment, "expert", 50) == 1
    assert 0.2 < share(environment, "always_unsat", 300) < 0.4


def test_a_wrong_answer_may_be_mended() -> None:
    environment = playing(PARITY, max_turns=3)
    first = environment.step("x1=True, x2=True")
    assert first == Step(
        "1 clause is false: (¬x1 ∨ ¬x2)", 0.0, False, False, {"success": False, "valid_action": True, "score": 0.0}
    )
    assert environment.step("x1=True").observation == "There is no value for x2."
    last = environment.step("x1=False, x2=True")
    assert last.info["success"] and last.terminated and not last.truncated


def test_turns_run_out_and_unsat_is_final() -> None:
    environment = playing(PARITY, max_turns=2, feedback="count", unsat_share=0.5)
    assert environment.step("x1=True, x2=True").observation == "1 clause is false."
    last = environment.step("x1=False, x2=False")
    assert (last.terminated, last.truncated) == (False, True)
    claimed = playing(PARITY, max_turns=5, unsat_share=0.5).step("UNSAT")
    assert claimed.terminated and not claimed.info["success"] and claimed.info["valid_action"]


# -- tasks ----------------------------------------------------------------------------------------------------------


def test_small_formulas_are_in_one_split_only() -> None:
    environment = Sat(n_vars=3, k=2, ratio=1)
    formulas: dict[str, set[int]] = {"train": set(), "eval": set()}
    for task in range(1500):
        formulas[split_of("affine:sat", task)].add(environment.formula(task).digest())
    assert len(formulas["train"]) < 200  # of 220 that there are: nearly all were met
    assert len(formulas["eval"]) > 20
    assert not formulas["train"] & formulas["eval"]


def test_difficulty_grows_with_the_formula() -> None:
    environment = Sat(n_vars=[5, 9], k=[2, 3])
    for task in task_ids(environment, "train", 60):
        formula = environment.formula(task)
        assert environment.difficulty(task) == formula.n_vars - 5 + len(formula.clauses[0]) - 2
    assert {environment.difficulty(task) for task in range(200)} == set(range(6))


def test_short_style_is_short() -> None:
    environment = Sat(n_vars=[3, 4], k=[2, 3], ratio=2, style="short")
    assert len(environment.instructions) < 60
    assert environment.reset(0, 5).count("&") == len(environment.formula(5).clauses) - 1
    assert len(environment.reset(0, 5)) < 130


def test_same_task_whatever_the_hash_seed() -> None:
    code = (
        "from agentforge.environments.sat.environment import Sat\n"
        "e = Sat(n_vars=[6, 20], unsat_share=0.2)\n"
        "for task in range(8): print(e.reset(task, task), e.expert(), e.difficulty(task))\n"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(printed) == 1
    assert "x1" in printed.pop()


def test_the_seed_changes_nothing_and_episodes_do_not_touch_each_other() -> None:
    environment = Sat()
    first = environment.reset(0, 7)
    environment.step("x1=True")
    environment.reset(0, 8)
    assert environment.reset(99, 7) == first


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_vars": [9, 3]}, "n_vars"),
        ({"n_vars": "ten"}, "n_vars"),
        ({"n_vars": [3, 4, 5]}, "n_vars"),
        ({"n_vars": 2, "k": 3}, "k = 3"),
        ({"k": 1}, "k is 1"),
        ({"ratio": 0}, "ratio"),
        ({"ratio": "atuo"}, "ratio"),
        ({"ratio": 4.2, "n_vars": 3, "k": 3}, "lower ratio"),
        ({"k": 30, "n_vars": 40}, "give ratio as a number"),
        ({"unsat_share": 1.5}, "unsat_share"),
        ({"planted": True, "unsat_share": 0.1}, "planted"),
        ({"max_turns": 0}, "max_turns"),
        ({"max_turns": True}, "max_turns"),
        ({"style": "shrt"}, "did you mean 'short'"),
        ({"feedback": "none"}, "feedback"),
        ({"planted": "false"}, "planted must be true or false"),
        ({"ratio": float("inf")}, "ratio must be a number"),
        ({"n_vars": [5, 8], "unsat_share": 0.3}, "5 variables, 31 clauses and k = 5 none is unsatisfiable"),
        ({"n_vars": 10, "k": 3, "ratio": 1.0, "unsat_share": 0.5}, "none is unsatisfiable.*raise n_vars or ratio"),
        ({"n_vars": [10, 20], "k": 3, "ratio": 14}, "10 variables.*none is satisfiable.*lower ratio or raise k"),
        ({"n_vars": [4, 10**6]}, "it must be from 1 to 999,999"),
        ({"n_vars": [4, 10**5], "k": 3}, "formulas of 426,703 clauses, more than 100,000"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Sat(**options)  # type: ignore[arg-type]


RANGES = st.tuples(st.integers(1, 8), st.integers(0, 3)).map(lambda pair: [pair[0], pair[0] + pair[1]])


@settings(max_examples=25, deadline=None)
@given(RANGES, RANGES, st.sampled_from(["auto", 0.5, 1.5, 3.0, 6.0]), st.sampled_from([0.0, 0.3, 1.0]), st.booleans())
def test_options_that_are_taken_work(n: list[int], k: list[int], ratio: Any, unsat: float, plant: bool) -> None:
    try:
        environment = Sat(n_vars=n, k=k, ratio=ratio, unsat_share=unsat, planted=plant)
    except UserError as error:
        assert "\n" not in str(error)
        return
    for task in range(40):
        environment.reset(0, task)


def test_a_planted_formula_of_few_variables_is_drawn_until_it_is_there() -> None:
    for seed in range(300):  # about one draw in a hundred has fewer than 16 of the 28 clauses
        assert len(planted(4, 3, 16, Random(seed)).clauses) == 16


def test_impossible_wishes_and_tasks_are_refused() -> None:
    with pytest.raises(UserError, match="no task -1"):
        Sat().reset(0, -1)
    with pytest.raises(UserError, match="no baseline 'rndom'"):
        Sat().baseline("rndom", Random(0))
    assert assignment_text({2: False, 1: True}) == "x1=True, x2=False"
