"""Random k-SAT formulas, the solver that judges them, and their text.

A literal is a number as in DIMACS: 3 is x3, -3 is its negation. A clause is a tuple of literals of distinct variables.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from math import comb, sqrt
from random import Random
from typing import Literal

from agentforge.errors import UserError

Clause = tuple[int, ...]
Style = Literal["long", "short"]
SOLVER = "m22"
"""MiniSat 2.2: deterministic, and its decisions can be told which value to try first."""
DRAWS = 20
"""Attempts at a planted formula."""


@dataclass(frozen=True)
class Formula:
    """``clauses`` joined by AND over the variables 1 .. ``n_vars``."""

    n_vars: int
    clauses: tuple[Clause, ...]

    def falsified(self, assignment: dict[int, bool]) -> list[Clause]:
        """Return the clauses that an assignment of all variables leaves false."""
        true = {variable if value else -variable for variable, value in assignment.items()}
        return [clause for clause in self.clauses if true.isdisjoint(clause)]

    def majority(self) -> dict[int, bool]:
        """Return each variable's commoner polarity; True where both are equally common."""
        balance = [0] * (self.n_vars + 1)
        for clause in self.clauses:
            for literal in clause:
                balance[abs(literal)] += 1 if literal > 0 else -1
        return {variable: balance[variable] >= 0 for variable in range(1, self.n_vars + 1)}

    def solve(self) -> dict[int, bool] | None:
        """Return a satisfying assignment, None if there is none.

        Of several it tends to the one nearest to the majority polarity, so that what is learnt from it is a rule and
        not the solver's taste.
        """
        from pysat.solvers import Solver

        # MiniSat tries these values first, so it leaves the majority only where a clause forces it to.
        majority = self.majority()
        with Solver(name=SOLVER, bootstrap_with=self.clauses) as solver:
            solver.set_phases([variable if value else -variable for variable, value in majority.items()])
            if not solver.solve():
                return None
            model = {abs(literal): literal > 0 for literal in solver.get_model()}
        # A variable that stands in no clause may be missing from the model; any value will do for it.
        return majority | {v: value for v, value in model.items() if v <= self.n_vars}

    def digest(self) -> int:
        """Return a number that two formulas share if they differ only in the order of clauses and literals."""
        text = repr((self.n_vars, sorted(tuple(sorted(clause)) for clause in self.clauses)))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def uniform(n_vars: int, k: int, count: int, random: Random) -> Formula:
    """Draw ``count`` distinct clauses, all sets of clauses being equally likely.

    Raises:
        UserError: there are not so many clauses.
    """
    return _formula(n_vars, k, count, draw_clauses(n_vars, k, random))


def planted(n_vars: int, k: int, count: int, random: Random) -> Formula:
    """Draw distinct clauses that a hidden random assignment satisfies: satisfiable without a solver.

    A clause with t literals true under it is kept with probability q^(t-1), so that no variable occurs more often with
    its hidden sign: else the majority polarity would show it (Jia, Moore and Strain 2005).

    Raises:
        UserError: there are not so many clauses.
    """
    # Among few variables chance may leave too few clauses all the same: then all are drawn anew.
    for _ in range(DRAWS - 1):
        with suppress(UserError):
            return _formula(n_vars, k, count, _kept(n_vars, k, random))
    return _formula(n_vars, k, count, _kept(n_vars, k, random))


def planted_possible(n_vars: int, k: int) -> int:
    """Return how many clauses a planted formula may have: as many as are left in all but one draw in forty."""
    q, which = unbiased_weight(k), comb(n_vars, k)
    shares = [(which * comb(k, true), q ** (true - 1)) for true in range(1, k + 1)]
    mean = sum(number * p for number, p in shares)
    return int(mean - 2 * sqrt(sum(number * p * (1 - p) for number, p in shares)))


def _kept(n_vars: int, k: int, random: Random) -> Iterator[Clause]:
    hidden = {v if random.random() < 0.5 else -v for v in range(1, n_vars + 1)}
    q = unbiased_weight(k)
    for clause in draw_clauses(n_vars, k, random):
        true = len(hidden.intersection(clause))
        # A clause with no true literal would rule the hidden assignment out; one with all k true is kept least often.
        if true and random.random() < q ** (true - 1):
            yield clause


def unbiased_weight(k: int) -> float:
    """Return q with (1 - q) (1 + q)^(k - 1) = 1: true and false literals are then as frequent."""
    # q = 0 always solves the equation. For k = 2 it is the only root; for more the one that is wanted lies above it.
    low, high = (0.0, 1.0) if k == 2 else (1e-9, 1.0)
    # 60 halvings are more than a double can tell apart.
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 - middle) * (1 + middle) ** (k - 1) > 1 else (low, middle)
    return low


def _formula(n_vars: int, k: int, count: int, clauses: Iterator[Clause]) -> Formula:
    # More clauses than there are can never be drawn, so that is not even tried.
    drawn = tuple(islice(clauses, count)) if count <= clauses_possible(n_vars, k) else ()
    if len(drawn) < count:
        raise too_many(n_vars, k, count)
    return Formula(n_vars, drawn)


def too_many(n_vars: int, k: int, count: int) -> UserError:
    """Return what says that there are not so many clauses."""
    said = f"{n_vars} variables with k = {k} do not give {count} different clauses; lower ratio or raise n_vars"
    return UserError(f"affine:sat: {said}")


def draw_clauses(n_vars: int, k: int, random: Random) -> Iterator[Clause]:
    """Yield all clauses in a random order, their literals by variable."""
    variables = range(1, n_vars + 1)
    seen: set[Clause] = set()
    while len(seen) < clauses_possible(n_vars, k):
        # Which variables, and which signs: drawn apart, every clause is as likely as any other. One that was drawn
        # before is thrown away, which costs little while far fewer are wanted than there are.
        signs = random.getrandbits(k)
        clause = tuple(v if signs >> i & 1 else -v for i, v in enumerate(sorted(random.sample(variables, k))))
        if clause not in seen:
            seen.add(clause)
            yield clause


def clauses_possible(n_vars: int, k: int) -> int:
    """Return how many different clauses there are."""
    return comb(n_vars, k) * 2**k


def clause_text(clause: Clause, style: Style) -> str:
    """Write a clause: ``(x1 ∨ ¬x2)``, or short ``(x1|-x2)``."""
    negation, disjunction = ("¬", " ∨ ") if style == "long" else ("-", "|")
    literals = [f"x{literal}" if literal > 0 else f"{negation}x{-literal}" for literal in clause]
    return f"({disjunction.join(literals)})"


def formula_text(clauses: Sequence[Clause], style: Style) -> str:
    """Write clauses joined by AND."""
    return (" ∧ " if style == "long" else " & ").join(clause_text(clause, style) for clause in clauses)


def assignment_text(assignment: dict[int, bool]) -> str:
    """Write an assignment: ``x1=True, x2=False``."""
    return ", ".join(f"x{variable}={value}" for variable, value in sorted(assignment.items()))
