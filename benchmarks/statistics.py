"""Seconds for the evaluation statistics of a million results, as few large evaluations and as many small ones.

    python -m benchmarks.statistics

CPU seconds of one process. Large: one model, 8 environments of 125,000 tasks. Small: 250 models, 8 environments of
500 tasks. Half of the environments are graded (ABC intervals), half right or wrong (Beta-Jeffreys). Last: 250,000 tasks
with four samples each.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from agentforge.evaluation.statistics.dominance import RULES, Side, dominates
from agentforge.evaluation.statistics.policy_summary import aggregate, summarise
from agentforge.evaluation.statistics.posterior import declared_dominance, dominance_probability, draw_all

TOTAL = 1_000_000
ENVIRONMENTS = 8


def evaluate(models: int, samples: int = 1) -> float:
    """Return the CPU seconds of the summaries and aggregates of ``models`` models with `TOTAL` results together."""
    n = TOTAL // models // ENVIRONMENTS
    rng = np.random.default_rng(0)
    tasks = np.repeat(rng.permutation(n // samples), samples)
    graded = rng.beta(2, 2, n)
    binary = (graded > 0.4).astype(float)
    started = time.process_time()
    for _ in range(models):
        summaries = [
            summarise(graded if e % 2 else binary, binary, tasks, 0.8, graded=bool(e % 2)) for e in range(ENVIRONMENTS)
        ]
        aggregate(summaries, 0.8)
    return time.process_time() - started


def posterior(models: int) -> float:
    """Return the CPU seconds of who dominates whom among several models on 500 tasks in 8 environments."""
    rng = np.random.default_rng(0)
    scores = [(rng.random((500, models)) < 0.5).astype(float) for _ in range(ENVIRONMENTS)]
    started = time.process_time()
    drawn = draw_all(scores)
    dominance_probability(drawn)
    declared_dominance(scores, drawn)
    return time.process_time() - started


def rules() -> float:
    """Return the CPU seconds of all rules on 250 models in 8 environments, each against each."""
    mean = np.random.default_rng(0).random((250, ENVIRONMENTS))
    n = np.full(mean.shape, 500.0)
    side = Side(mean, n, mean - 0.02, mean + 0.02, np.arange(250), np.ones_like(mean))
    started = time.process_time()
    for rule in RULES.values():
        dominates(rule, side)
    return time.process_time() - started


def least(measured: Callable[[], float]) -> float:
    return min(measured() for _ in range(3))


def main() -> None:
    evaluate(1)
    rows = {
        "1 model, 8 x 125,000 tasks": lambda: evaluate(1),
        "250 models, 8 x 500 tasks": lambda: evaluate(250),
        "1 model, 8 x 31,250 tasks, four samples each": lambda: evaluate(1, samples=4),
        "posterior of 5 models, 8 x 500 tasks, 4000 draws": lambda: posterior(5),
        "posterior of 20 models, 8 x 500 tasks, 4000 draws": lambda: posterior(20),
        "six rules, 250 models each against each": rules,
    }
    print("| | CPU seconds |\n|---|--:|")
    for name, measured in rows.items():
        print(f"| {name} | {least(measured):.2f} |")


if __name__ == "__main__":
    main()
