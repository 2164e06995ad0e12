"""affine:sat: find values that satisfy a random k-SAT formula, or say that there are none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from math import comb
from random import Random
from typing import ClassVar, Literal

from agentforge.environments.actions import act_tool, find_answer
from agentforge.environments.base import Environment, Info, Step
from agentforge.environments.options import as_choice, as_count, as_flag, as_number, as_range
from agentforge.environments.sat.formulas import (
    Formula,
    Style,
    assignment_text,
    clauses_possible,
    formula_text,
    planted,
    planted_possible,
    too_many,
    uniform,
)
from agentforge.environments.sat.threshold import threshold_ratio
from agentforge.environments.splits import EVAL_SHARE, split_of
from agentforge.errors import UserError

UNSAT = "UNSAT"
TRIES = 20_000
"""Formulas drawn for one task at most, until one is (un)satisfiable as wanted."""
PROOFS = 500
"""Formulas drawn to prove options. What passes has a formula in some hundred draws, so `TRIES` never runs out."""
FEW = 1_000_000
"""Where there are fewer formulas, those of one split, or the unsatisfiable ones, may be none at all."""
MOST_VARIABLES, MOST_CLAUSES = 999_999, 100_000
"""An answer names a variable in six digits at most; and no model reads so many clauses."""

# The \b behind the value: `x1 = 10` is no answer, and must not be read as x1 = 1.
_ANSWER = re.compile(r"\bx(\d{1,6})\s*=\s*(true|false|1|0)\b|\bUNSAT\b", re.IGNORECASE)
_GRAMMAR = "x1=True, x2=False, ... with a value for every variable"


class Sat(Environment):
    """Random k-SAT near the ratio of clauses to variables at which half of the formulas are satisfiable.

    Formulas are drawn uniformly and the solver keeps those that are satisfiable (or, for a share of the tasks, those
    that are not). Planting a solution instead would show it: see `formulas.planted`.

    Args:
        n_vars: variables, a number or ``[least, most]``.
        k: literals of a clause, likewise.
        ratio: clauses for each variable; ``auto`` looks it up for each task's n and k.
        unsat_share: share of tasks that have no solution; their answer is ``UNSAT``.
        max_turns: answers the model may give. After a wrong one it learns which clauses are false.
        style: ``short`` writes instructions and formula with few tokens, for very small models.
        feedback: what a wrong answer is told: the false ``clauses``, or only their ``count``.
        planted: plant the solution, for sizes that a solver cannot do (from about 200 variables).

    Raises:
        UserError: an option is wrong.
    """

    id = "affine:sat"
    self_contained: ClassVar[bool] = True
    baselines: ClassVar[tuple[str, ...]] = ("random", "all_true", "majority", "always_unsat")

    def __init__(
        self,
        n_vars: int | Sequence[int] = (10, 20),
        k: int | Sequence[int] = (3, 5),
        ratio: float | str = "auto",
        unsat_share: float = 0.0,
        max_turns: int = 1,
        style: Style = "long",
        feedback: Literal["clauses", "count"] = "clauses",
        planted: bool = False,
    ) -> None:
        self.n_vars = as_range(n_vars, "environments.affine:sat.n_vars", least=1, most=MOST_VARIABLES)
        self.k = as_range(k, "environments.affine:sat.k", least=2)
        self.ratio = None if ratio == "auto" else as_number(ratio, "environments.affine:sat.ratio", least=0, over=True)
        self.unsat_share = as_number(unsat_share, "environments.affine:sat.unsat_share", most=1)
        self.max_turns = as_count(max_turns, "environments.affine:sat.max_turns")
        self.style: Style = as_choice(style, "environments.affine:sat.style", ("long", "short"))
        self.feedback = as_choice(feedback, "environments.affine:sat.feedback", ("clauses", "count"))
        self.planted = as_flag(planted, "environments.affine:sat.planted")
        self._check()
        self.instructions = self._instructions()
        answer = _GRAMMAR + (f"; or {UNSAT}" if self.unsat_share else "")
        self.action_tool = act_tool("Gives the answer.", answer)
        self._formula = Formula(0, ())
        self._turns = 0

    def _check(self) -> None:
        if self.k[0] > self.n_vars[0]:
            raise UserError(
                f"affine:sat: a clause of k = {self.k[0]} literals needs as many n_vars, not {self.n_vars[0]}"
            )
        if self.planted and self.unsat_share:
            raise UserError("affine:sat: planted formulas are satisfiable; set unsat_share to 0, or planted to false")
        for k in range(self.k[0], min(self.k[1], self.n_vars[1]) + 1):
            n = max(k, self.n_vars[0])
            if self._count(n, k) >= clauses_possible(n, k):
                raise UserError(
                    f"affine:sat: with {n} variables and k = {k} there are {clauses_possible(n, k)} clauses, which "
                    f"together have no solution; ratio {self.ratio} asks for {self._count(n, k)}: lower ratio or "
                    "raise n_vars"
                )
            if (largest := self._count(self.n_vars[1], k)) > MOST_CLAUSES:
                raise UserError(
                    f"affine:sat: {self.n_vars[1]} variables with k = {k} make formulas of {largest:,} clauses, more "
                    f"than {MOST_CLAUSES:,}; lower n_vars, k or ratio"
                )
            for size in sorted({n, self.n_vars[1]}):
                self._prove(size, k)

    def _prove(self, n: int, k: int) -> None:
        """Draw a formula of each kind that the options ask for, in both splits: a run must not find out that it cannot.

        It is enough to look at the ends of `n_vars`. With a fixed ratio the share of satisfiable formulas goes towards
        0 or 1 as n grows, so the largest n is the worst; the smallest is the other exception, because it has so few
        formulas. (With n = k any formula short of all 2^k clauses is satisfiable: each rules out one assignment.) With
        ``auto`` half are satisfiable by measurement, and only the sizes with few formulas are looked at.
        """
        count = self._count(n, k)
        if self.planted and count > planted_possible(n, k):
            raise too_many(n, k, count)
        # Of many clauses there are always many formulas, and `comb` of them would be a number of millions of digits.
        few = comb(clauses_possible(n, k), count) < FEW if clauses_possible(n, k) < FEW else False
        if not few and (self.planted or self.ratio is None):
            return
        kinds = tuple(kind for kind, share in ((True, 1 - self.unsat_share), (False, self.unsat_share)) if share > 0)
        for satisfiable in kinds:
            if not _exists(n, k, count, self.planted, satisfiable):
                raise UserError(self._none(n, k, count, satisfiable, PROOFS))

    def _instructions(self) -> str:
        unsat = self.unsat_share > 0
        if self.style == "short":
            return "Make all clauses true. Answer: x1=True, x2=False, ..." + (f" or {UNSAT}" if unsat else "")
        lines = [
            "You are given a Boolean formula: clauses joined by ∧, each of them variables or negated variables (¬) "
            "joined by ∨. Choose a value for every variable so that every clause holds at least one true literal.",
            f"Write the answer as {_GRAMMAR}, separated by commas.",
        ]
        if unsat:
            lines.append(f"Some formulas have no solution. If you find that this is one, write {UNSAT} instead.")
        lines.append("Only the last value that you write for a variable counts.")
        if self.max_turns > 1:
            lines.append(f"You have {self.max_turns} attempts.")
        return "\n".join(lines)

    @property
    def tasks(self) -> int:
        return 1 << 31

    def difficulty(self, task_id: int) -> int:
        """Return how far n and k together are above the least that the options allow."""
        n, k = self._shape(self._random(task_id))
        return n - self.n_vars[0] + k - self.k[0]

    def _random(self, task_id: int) -> Random:
        return Random(f"{self.id}/{task_id}")

    def _shape(self, random: Random) -> tuple[int, int]:
        n = random.randint(*self.n_vars)
        return n, random.randint(self.k[0], min(n, self.k[1]))

    def _count(self, n: int, k: int) -> int:
        """Return how many clauses a formula has."""
        return max(1, round(n * (threshold_ratio(n, k) if self.ratio is None else self.ratio)))

    def formula(self, task_id: int) -> Formula:
        """Return the formula of a task.

        No formula of a reserved task is one of training: small formulas would repeat, so each belongs to one split.

        Raises:
            UserError: there is no such task, or no formula as the options want it is found.
        """
        if not 0 <= task_id < self.tasks:
            raise UserError(f"affine:sat: there is no task {task_id}; ids are 0 to {self.tasks - 1}")
        random = self._random(task_id)
        # All draws of a task come from one generator, so their order is part of what the task is: draw something
        # between them, and every formula is another one.
        n, k = self._shape(random)
        satisfiable = random.random() >= self.unsat_share
        count = self._count(n, k)
        reserved = split_of(self.id, task_id) == "eval"
        formula = _find(n, k, count, self.planted, satisfiable, reserved, random, TRIES)
        if formula is None:
            raise UserError(self._none(n, k, count, satisfiable, TRIES))
        return formula

    @staticmethod
    def _none(n: int, k: int, count: int, satisfiable: bool, tries: int) -> str:
        return (
            f"affine:sat: of {tries:,} formulas with {n} variables, {count} clauses and k = {k} none is "
            f"{'satisfiable' if satisfiable else 'unsatisfiable'} and free for each split; "
            + ("lower ratio or raise k" if satisfiable else "raise n_vars or ratio, lower k, or set unsat_share to 0")
        )

    def reset(self, seed: int, task_id: int) -> str:
        self._formula = self.formula(task_id)
        self._turns = 0
        text = formula_text(self._formula.clauses, self.style)
        if self.style == "short":
            return text
        return f"The formula over x1 to x{self._formula.n_vars}, {len(self._formula.clauses)} clauses:\n{text}"

    def step(self, text: str) -> Step:
        self._turns += 1
        answer = self._answer(find_answer(text))
        if isinstance(answer, str):
            return self._wrong(answer, valid=False)
        if answer is None:
            right = self._formula.solve() is None
            return self._over(right, "" if right else "There is a solution.")
        false = self._formula.falsified(answer)
        if not false:
            return self._over(True, "")
        noun = "clause is" if len(false) == 1 else "clauses are"
        shown = f": {formula_text(false, self.style)}" if self.feedback == "clauses" else "."
        return self._wrong(f"{len(false)} {noun} false{shown}", valid=True)

    def _answer(self, text: str) -> dict[int, bool] | str | None:
        """Return the assignment of a turn, None for UNSAT, or what is wrong with it."""
        values: dict[int, bool] | None = {}
        for found in _ANSWER.finditer(text):
            if found[1] is not None:
                # A value after UNSAT takes it back, and starts an assignment afresh.
                values = values or {}
                values[int(found[1])] = found[2].lower() in ("true", "1")
            elif self.unsat_share:
                values = None
        if values is None:
            return None
        # No default for what is missing: a model that names the variables it is sure of has not answered.
        missing = [f"x{v}" for v in range(1, self._formula.n_vars + 1) if v not in values]
        if not values:
            return "There is no answer; write " + _GRAMMAR + "."
        if missing:
            return f"There is no value for {', '.join(missing)}."
        return {v: values[v] for v in range(1, self._formula.n_vars + 1)}

    def _over(self, right: bool, observation: str) -> Step:
        return Step(observation, float(right), True, False, Info(success=right, valid_action=True, score=float(right)))

    def _wrong(self, observation: str, valid: bool) -> Step:
        """Return a failed step: a single answer ends the task (terminated), the last of several is truncated."""
        info = Info(success=False, valid_action=valid, score=0.0)
        if not valid:
            info["problem"] = observation
        last = self._turns >= self.max_turns
        return Step(observation, 0.0, last and self.max_turns == 1, last and self.max_turns > 1, info)

    def expert(self) -> str:
        solution = self._formula.solve()
        return UNSAT if solution is None else assignment_text(solution)

    def baseline(self, name: str, random: Random) -> str:
        variables = range(1, self._formula.n_vars + 1)
        if name == "random":
            return assignment_text({v: random.random() < 0.5 for v in variables})
        if name == "all_true":
            return assignment_text(dict.fromkeys(variables, True))
        if name == "majority":
            return assignment_text(self._formula.majority())
        if name == "always_unsat":
            return UNSAT
        raise UserError(f"affine:sat has no baseline '{name}'; it has: {', '.join(self.baselines)}")


def _find(
    n: int, k: int, count: int, plant: bool, satisfiable: bool, reserved: bool, random: Random, tries: int
) -> Formula | None:
    """Return the first drawn formula that is of the split and (un)satisfiable as wanted; None: none of ``tries`` is."""
    draw = planted if plant else uniform
    for _ in range(tries):
        formula = draw(n, k, count, random)
        # Before the solver: the split costs one hash, and turns four of five formulas of a reserved task away.
        if (formula.digest() % EVAL_SHARE == 0) != reserved:
            continue
        # A planted formula has a solution by the way it was made, and may be too large for the solver.
        if plant or (formula.solve() is not None) == satisfiable:
            return formula
    return None


@cache  # a run makes many environments with the same options
def _exists(n: int, k: int, count: int, plant: bool, satisfiable: bool) -> bool:
    random = Random(f"affine:sat/proof/{n}/{k}/{count}")
    return all(_find(n, k, count, plant, satisfiable, reserved, random, PROOFS) for reserved in (True, False))
