"""Measure the thresholds of `sat_threshold`: ``python -m agentforge.environments.sat.calibration``.

A formula that grows clause by clause is satisfiable up to some clause and never again. The median of that clause's
number over many growing formulas is where half of them are satisfiable, for all ratios at once.
"""

from __future__ import annotations

from random import Random
from statistics import median

from agentforge.artifacts import write_json
from agentforge.environments.sat.formulas import SOLVER, draw_clauses
from agentforge.environments.sat.threshold import TABLE

SIZES = (2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40, 50, 75, 100)
LARGEST = {2: 100, 3: 100, 4: 50, 5: 30, 6: 20, 7: 15, 8: 12}
"""Variables measured at most for each k: beyond, a solver or a reader has too much to do."""
FORMULAS = 1000


def last_satisfiable(n_vars: int, k: int, random: Random) -> int:
    """Return how many clauses a growing formula has when it is satisfiable for the last time."""
    from pysat.solvers import Solver

    model = set(range(1, n_vars + 1))
    with Solver(name=SOLVER) as solver:
        for count, clause in enumerate(draw_clauses(n_vars, k, random)):
            solver.add_clause(clause)
            if model.isdisjoint(clause):  # else the last model is still one
                if not solver.solve():
                    return count
                model = set(solver.get_model())
                # The solver leaves out variables that it has not met; a clause to come may hold them, so they count as
                # true.
                model |= {v for v in range(1, n_vars + 1) if v not in model and -v not in model}
    raise AssertionError("all clauses together are unsatisfiable")


def measure(n_vars: int, k: int, formulas: int = FORMULAS) -> float:
    """Return the ratio at which half of ``formulas`` random formulas are satisfiable."""
    random = Random(f"sat-calibration/{n_vars}/{k}")
    return round(median(last_satisfiable(n_vars, k, random) for _ in range(formulas)) / n_vars, 3)


def main() -> None:
    """Write the table."""
    ratios = {str(k): {str(n): measure(n, k) for n in SIZES if k <= n <= largest} for k, largest in LARGEST.items()}
    made_by = "python -m agentforge.environments.sat.calibration"
    write_json(TABLE, {"made_by": made_by, "formulas": FORMULAS, "ratios": ratios})


if __name__ == "__main__":
    main()
