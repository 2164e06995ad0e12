"""How often the intervals of scores contain the truth: exactly where outcomes can be counted, else simulated.

    python -m benchmarks.coverage

All intervals are of 80 %. Proportions: the binomial distribution is summed over every count, so the figures are exact;
the minimum is over all true rates, the mean over rates from 0 to 1 alike. Graded scores: of scores 0, 1/3, 2/3 and 1
every outcome of n tasks is weighed with its multinomial probability, which is exact too; of continuous scores 20,000
samples are drawn. Samples of tasks: 4000 simulations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations_with_replacement

import numpy as np
from scipy.special import betainc
from scipy.stats import binom, binomtest, multinomial, norm, t

from agentforge.evaluation.statistics.intervals import (
    Array,
    beta_jeffreys,
    bootstrap_abc,
    jeffreys_coverage,
    share_over_rows,
)

CONFIDENCE = 0.8
COUNTS = (3, 5, 10, 27, 100, 400)
GRID = 20_000
LEVELS = np.array([0, 1 / 3, 2 / 3, 1])
GRADED = {
    "alike": (0.25, 0.25, 0.25, 0.25),
    "mostly 0": (0.70, 0.15, 0.10, 0.05),
    "mostly 1": (0.05, 0.05, 0.10, 0.80),
    "at both ends": (0.45, 0.05, 0.05, 0.45),
    "in the middle": (0.05, 0.45, 0.45, 0.05),
}
CONTINUOUS = {"Beta(8, 2)": (8.0, 2.0), "Beta(2, 2)": (2.0, 2.0), "Beta(0.3, 1)": (0.3, 1.0)}
SAMPLES = 20_000
SIMULATIONS = 4000

Limits = Array
"""(counts, 2): the interval of each number of successes."""


def jeffreys(n: int) -> Limits:
    return np.array([beta_jeffreys(count, n, CONFIDENCE) for count in range(n + 1)])


def clopper_pearson(n: int) -> Limits:
    found = [binomtest(count, n).proportion_ci(CONFIDENCE, "exact") for count in range(n + 1)]
    return np.array([(one.low, one.high) for one in found])


def blaker(n: int) -> Limits:
    """Return Blaker's exact interval (Canadian Journal of Statistics 28(4), 2000) on a grid of rates, rounded outwards.

    A rate is inside if the counts whose smaller tail is no larger than that of the one observed have together more than
    1 - confidence.
    """
    rates = np.arange(GRID + 1) / GRID
    mass = binom.pmf(np.arange(n + 1), n, rates[:, None])
    tails = np.minimum(mass.cumsum(axis=1), mass[:, ::-1].cumsum(axis=1)[:, ::-1])
    limits = []
    for count in range(n + 1):
        accepted = (mass * (tails <= tails[:, [count]] * (1 + 1e-9))).sum(axis=1) > 1 - CONFIDENCE
        inside = np.flatnonzero(accepted)
        limits.append((rates[max(0, inside[0] - 1)], rates[min(GRID, inside[-1] + 1)]))
    return np.array(limits)


def minimum(limits: Limits, between: tuple[float, float] = (0, 1)) -> float:
    """Return the least coverage over rates: it lies beside a limit, where a count is just left out."""
    n = len(limits) - 1
    near = np.concatenate([limits.ravel() - 1e-9, limits.ravel() + 1e-9, between])
    rates = near[(near >= between[0]) & (near <= between[1])][:, None]
    inside = (limits[:, 0] <= rates) & (rates <= limits[:, 1])
    return float((binom.pmf(np.arange(n + 1), n, rates) * inside).sum(axis=1).min())


def mean(limits: Limits) -> float:
    """Return the mean coverage over rates from 0 to 1: over a count's interval, the integral of its probability."""
    n, counts = len(limits) - 1, np.arange(len(limits))
    inside = [betainc(counts + 1, n - counts + 1, limits[:, side]) for side in (0, 1)]
    return float((inside[1] - inside[0]).sum() / (n + 1))


def proportions() -> None:
    """Print exact coverage and mean width of three intervals of a proportion."""
    print("Proportions: coverage at the worst rate, at the worst rate between 0.1 and 0.9, on average; mean width.\n")
    names = ("Beta-Jeffreys", "Blaker", "Clopper-Pearson")
    print("| n | " + " | ".join(f"{name} | width" for name in names) + " |")
    print("|--:|" + "--:|--:|" * len(names))
    for n in COUNTS:
        cells = []
        for make in (jeffreys, blaker, clopper_pearson):
            limits = make(n)
            worst, within = minimum(limits), minimum(limits, (0.1, 0.9))
            width = float((limits[:, 1] - limits[:, 0]).mean())
            cells.append(f"{worst:.3f}, {within:.3f}, {mean(limits):.3f} | {width:.3f}")
        print(f"| {n} | " + " | ".join(cells) + " |")
        ours, limits = jeffreys_coverage(n, CONFIDENCE), jeffreys(n)
        assert abs(ours.minimum - minimum(limits)) < 1e-6 and abs(ours.mean - mean(limits)) < 1e-9
    print()


def outcomes(n: int) -> Iterator[tuple[int, ...]]:
    """Yield how many of n tasks have each of the levels, every possibility once."""
    for chosen in combinations_with_replacement(range(len(LEVELS)), n):
        yield tuple(chosen.count(level) for level in range(len(LEVELS)))


def plain(n: int) -> float:
    """Return the confidence at which our ABC interval, expanded by Student's t, is the plain one of `CONFIDENCE`."""
    return float(2 * t(n - 1).cdf(norm.ppf((1 + CONFIDENCE) / 2) * ((n - 1) / n) ** 0.5) - 1)


def graded() -> None:
    """Print coverage of the ABC interval, and in brackets of the plain one that is not expanded."""
    print("Graded scores: coverage of the expanded ABC interval; in brackets that of plain ABC.\n")
    names = [*(f"thirds, {name}" for name in GRADED), *CONTINUOUS]
    print("| tasks | " + " | ".join(names) + " |\n|--:|" + "--:|" * len(names))
    for n in (3, 5, 10, 27):
        both = [[*exact(n, confidence), *simulated(n, confidence)] for confidence in (CONFIDENCE, plain(n))]
        print(f"| {n} | " + " | ".join(f"{ours:.3f} ({old:.3f})" for ours, old in zip(*both, strict=True)) + " |")
    print()


def exact(n: int, confidence: float) -> Iterator[float]:
    """Yield the coverage for each distribution over the levels, summed over all outcomes."""
    counts = np.array(list(outcomes(n)))
    limits = np.array([bootstrap_abc(np.repeat(LEVELS, own), confidence) for own in counts])
    for shares in GRADED.values():
        truth = float(np.dot(LEVELS, shares))
        inside = (limits[:, 0] <= truth + 1e-12) & (truth - 1e-12 <= limits[:, 1])
        yield float(multinomial(n, shares).pmf(counts)[inside].sum())


def simulated(n: int, confidence: float) -> Iterator[float]:
    """Yield the coverage for each continuous distribution."""
    rng = np.random.default_rng(0)
    for a, b in CONTINUOUS.values():
        found = np.array([bootstrap_abc(values, confidence) for values in rng.beta(a, b, (SAMPLES, n))])
        yield float(((found[:, 0] <= a / (a + b)) & (a / (a + b) <= found[:, 1])).mean())


def clustered() -> None:
    """Print the coverage of Beta-Jeffreys over effective trials, and of one that takes samples for independent."""
    print("Samples of tasks whose difficulty differs, success rate 0.6: coverage; in brackets if samples were tasks.\n")
    spreads: dict[str, Callable[[np.random.Generator, int], Array]] = {
        "tasks alike": lambda rng, tasks: np.full(tasks, 0.6),
        "difficulty Beta(1.8, 1.2)": lambda rng, tasks: rng.beta(1.8, 1.2, tasks),
        "difficulty Beta(0.18, 0.12)": lambda rng, tasks: rng.beta(0.18, 0.12, tasks),
    }
    print("| tasks, samples of each | " + " | ".join(spreads) + " |\n|---|" + "--:|" * len(spreads))
    for tasks, samples in ((5, 4), (10, 4), (40, 4), (200, 4), (40, 16)):
        cells = [cluster_coverage(tasks, samples, draw) for draw in spreads.values()]
        print(f"| {tasks}, {samples} | " + " | ".join(f"{own:.3f} ({naive:.3f})" for own, naive in cells) + " |")


def cluster_coverage(
    tasks: int, samples: int, draw: Callable[[np.random.Generator, int], Array]
) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    counts = np.full(tasks, float(samples))
    held = np.zeros((SIMULATIONS, 2))
    for run in range(SIMULATIONS):
        sums = rng.binomial(samples, draw(rng, tasks)).astype(float)
        intervals: Sequence[tuple[float, float]] = (
            share_over_rows(sums, counts, CONFIDENCE)[1:],
            beta_jeffreys(sums.sum(), counts.sum(), CONFIDENCE),
        )
        held[run] = [low <= 0.6 <= high for low, high in intervals]
    return float(held[:, 0].mean()), float(held[:, 1].mean())


def main() -> None:
    proportions()
    graded()
    clustered()


if __name__ == "__main__":
    main()
