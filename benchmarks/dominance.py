"""How often each rule of dominance is wrong, and how often it finds what is true; what a number of tasks can show.

    python -m benchmarks.dominance

Model B succeeds on half of the tasks of every environment; A, the later one, differs from it as the table says. Rules
get 4000 simulated pairs, the posterior 1000 of 1000 draws each; of many models 1000 frontiers are simulated. Figures
in brackets are those of 1500 simulations by another program, made before this one was written: the two have to agree
within their error.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import betaincinv

from agentforge.evaluation.statistics.dominance import RULES, Side
from agentforge.evaluation.statistics.intervals import Array
from agentforge.evaluation.statistics.posterior import declared_dominance, dominance_probability, draw_all
from agentforge.evaluation.statistics.power import difference_sd, smallest_difference

PAIRS = 4000
POSTERIOR_PAIRS = 1000
DRAWS = 1000
BEFORE = 1500
RATE = 0.5
# environments, tasks, gap: point, interval, affine_margin, P(all at least as good) > 0.8, P(all within 0.02) > 0.95
KNOWN = {
    (3, 100, 0.0): (0.142, 0.114, 0.0, 0.001, 0.0),
    (8, 100, 0.0): (0.009, 0.191, 0.0, 0.0, 0.0),
    (8, 100, 0.05): (0.143, 0.674, 0.0, 0.0, 0.0),
    (8, 100, 0.1): (0.575, 0.961, 0.004, 0.006, 0.0),
    (8, 200, 0.1): (0.851, 0.995, 0.006, 0.099, 0.031),
    (8, 200, 0.2): (1.0, 1.0, 0.911, 0.995, 0.981),
}
MORE = [(3, 400, 0.0), (8, 400, 0.0), (3, 400, 0.1), (8, 400, 0.1), (3, 1000, 0.1), (8, 1000, 0.1)]
MIXED = [(3, 100), (8, 100), (3, 400), (8, 400), (8, 1000)]
OTHERS = ("point", "interval", "affine_eps", "affine_ci", "affine_margin", "champion_margin")
ALMOST = [(8, 400), (8, 4000)]
MODELS = (2, 5, 10, 20)
TASKS = (50, 100, 200, 500, 1000, 2000, 5000)


def side(successes: Array, n: int, order: int) -> Side:
    """Return simulated models with their 80 % Jeffreys intervals; successes (pairs, environments)."""
    low, high = (betaincinv(successes + 0.5, n - successes + 0.5, tail) for tail in (0.1, 0.9))
    every = np.full(successes.shape, float(n))
    return Side(successes / n, every, low, high, np.full(len(successes), order), np.ones_like(every))


def rule_rates(rates: Sequence[float], n: int, rules: Sequence[str]) -> list[float]:
    """Return how often A, with these true rates, dominates B under each rule."""
    rng = np.random.default_rng(0)
    a = rng.binomial(n, rates, (PAIRS, len(rates))).astype(float)
    b = rng.binomial(n, RATE, (PAIRS, len(rates))).astype(float)
    later, earlier = side(a, n, 1), side(b, n, 0)
    return [float(RULES[rule](later, earlier).mean()) for rule in rules]


def beta_rates(rates: Sequence[float], n: int) -> list[float]:
    """Return how often independent Beta posteriors say that A is nowhere worse: at all, and by more than 0.02."""
    rng = np.random.default_rng(0)
    found = np.zeros((POSTERIOR_PAIRS, 2))
    for pair in range(POSTERIOR_PAIRS):
        a, b = rng.binomial(n, rates), rng.binomial(n, RATE, len(rates))
        difference = rng.beta(a + 0.5, n - a + 0.5, (DRAWS, len(rates)))
        difference -= rng.beta(b + 0.5, n - b + 0.5, (DRAWS, len(rates)))
        found[pair] = (difference >= 0).all(axis=1).mean() > 0.8, (difference > -0.02).all(axis=1).mean() > 0.95
    return [float(share) for share in found.mean(axis=0)]


def played(rates: Array, n: int, shared: float, rng: np.random.Generator) -> list[Array]:
    """Return right and wrong answers, (n, models) of each environment.

    Args:
        rates: (models, environments) true success rates.
        shared: share of the tasks whose difficulty decides for all models alike.
    """
    scores = []
    for environment in rates.T:
        own = rng.random((n, len(environment)))
        luck = np.where(rng.random((n, 1)) < shared, own[:, :1], own)
        scores.append((luck < environment).astype(float))
    return scores


def posterior_rate(rates: Sequence[float], n: int, shared: float) -> float:
    """Return how often our rule `posterior` says that A dominates B."""
    rng = np.random.default_rng(0)
    both = np.array([rates, [RATE] * len(rates)])
    found = 0
    for pair in range(POSTERIOR_PAIRS):
        scores = played(both, n, shared, rng)
        found += bool(declared_dominance(scores, draw_all(scores, seed=pair, draws=DRAWS))[0, 1])
    return found / POSTERIOR_PAIRS


def frontier_rates(rates: Array, n: int, shared: float = 0.0) -> Array:
    """Return how often, of several models, something is said that is false, and how much of what is true is said.

    Args:
        rates: (models, environments); all models but the first are equal, and the first is no worse.

    Returns:
        (2, 2): pair by pair above 95 %, and by our rule; each the share of frontiers with a false statement, and the
        share of the equal models that are said to be dominated by the first.
    """
    rng = np.random.default_rng(0)
    better = bool((rates[0] > rates[-1]).any())
    found = np.zeros((2, 2))
    for run in range(POSTERIOR_PAIRS):
        scores = played(rates, n, shared, rng)
        drawn = draw_all(scores, seed=run, draws=DRAWS)
        for rule, said in enumerate((dominance_probability(drawn) > 0.95, declared_dominance(scores, drawn))):
            true = said[0, 1:] & better
            found[rule] += bool(said.sum() > true.sum()), true.mean()
    return found / POSTERIOR_PAIRS


def known_table() -> None:
    """Print the table that had been simulated before, and how far apart the two are."""
    limits = "P(all ≥) > 0.8 | P(all > −0.02) > 0.95"
    print(f"| environments | tasks | gap | `point` | `interval` | `affine_margin` | {limits} |")
    print("|--:|--:|--:|--:|--:|--:|--:|--:|")
    distances = []
    for (environments, n, gap), before in KNOWN.items():
        rates = [RATE + gap] * environments
        ours = [*rule_rates(rates, n, ("point", "interval", "affine_margin")), *beta_rates(rates, n)]
        for value, old, pairs in zip(ours, before, (PAIRS,) * 3 + (POSTERIOR_PAIRS,) * 2, strict=True):
            share = (value * pairs + old * BEFORE + 1) / (pairs + BEFORE + 2)
            distances.append(abs(value - old) / (share * (1 - share) * (1 / pairs + 1 / BEFORE)) ** 0.5)
        cells = " | ".join(f"{value:.3f} ({old:.3f})" for value, old in zip(ours, before, strict=True))
        print(f"| {environments} | {n} | {gap:g} | {cells} |")
    print(
        f"\nOf {len(distances)} figures {sum(d < 2 for d in distances)} lie within two standard errors of the earlier "
        f"simulation, the farthest at {max(distances):.1f}.\n"
    )


def rows(title: str, cases: Sequence[tuple[str, list[float], int]]) -> None:
    """Print how often A dominates B in each case under every rule, and under the posterior without and with pairing."""
    print(f"{title}\n")
    names = " | ".join(f"`{rule}`" for rule in OTHERS)
    print(f"| environments, tasks | {names} | `posterior` | `posterior`, half of the luck shared |")
    print("|---|" + "--:|" * (len(OTHERS) + 2))
    for name, rates, n in cases:
        shares = [*rule_rates(rates, n, OTHERS), posterior_rate(rates, n, 0.0), posterior_rate(rates, n, 0.5)]
        print(f"| {name} | " + " | ".join(f"{share:.3f}" for share in shares) + " |")
    print()


def frontier_tables() -> None:
    """Print what becomes of the rule when the number of models grows."""
    head = "| models | " + " | ".join("{} | `posterior`" for _ in range(4)) + " |\n|--:|" + "--:|" * 8
    print("**False**, among equal models: how often any is said to dominate another (environments × tasks).\n")
    equal = {
        "1 × 27": (1, 27, 0.0),
        "1 × 100": (1, 100, 0.0),
        "1 × 100, luck shared": (1, 100, 0.5),
        "3 × 100": (3, 100, 0.0),
    }
    print(head.format(*(f"{name}: each pair > 95 %" for name in equal)))
    for models in MODELS:
        cells = []
        for environments, n, shared in equal.values():
            false = frontier_rates(np.full((models, environments), RATE), n, shared)[:, 0]
            cells += [f"{share:.3f}" for share in false]
        print(f"| {models} | {' | '.join(cells)} |", flush=True)
    print(
        "\n**True**, one model is better than all others, which are equal: how many of them are found; in brackets how"
    )
    print("often anything false is said.\n")
    gaps = {
        "1 × 400, gap 0.15": (1, 400, 0.15, 0.0),
        "1 × 400, gap 0.1, luck shared": (1, 400, 0.1, 0.5),
        "3 × 400, gap 0.1": (3, 400, 0.1, 0.0),
        "3 × 400, gap 0.1, luck shared": (3, 400, 0.1, 0.5),
    }
    print(head.format(*(f"{name}: each pair > 95 %" for name in gaps)))
    for models in MODELS:
        cells = []
        for environments, n, gap, shared in gaps.values():
            rates = np.full((models, environments), RATE)
            rates[0] += gap
            cells += [f"{true:.3f} ({false:.3f})" for false, true in frontier_rates(rates, n, shared)]
        print(f"| {models} | {' | '.join(cells)} |", flush=True)
    print()


def power_table() -> None:
    """Print the smallest difference that so many tasks find."""
    print(
        "Smallest true difference, in points, that a one-sided test at 5 %, shared by the environments, finds with 80 %"
    )
    print("power at a success rate near a half:\n")
    print("| tasks of an environment | 1 environment | paired, correlation 0.5 | 8 environments | paired |")
    print("|--:|--:|--:|--:|--:|")
    for n in TASKS:
        cells = [
            f"{100 * smallest_difference(difference_sd(0.5, correlation), n, environments):.1f}"
            for environments in (1, 8)
            for correlation in (0.0, 0.5)
        ]
        print(f"| {n:,} | " + " | ".join(cells) + " |")


def main() -> None:
    known_table()
    every = [(environments, n, gap) for environments, n, gap in [*KNOWN, *MORE]]
    equal = [(f"{e}, {n}", [RATE] * e, n) for e, n, gap in every if gap == 0]
    better = [(f"{e}, {n}, gap {gap:g}", [RATE + gap] * e, n) for e, n, gap in every if gap > 0]
    almost = [(f"{e}, {n}", [RATE + 0.015] * e, n) for e, n in ALMOST]
    mixed = [(f"{e}, {n}", [RATE + 0.1] * (e - 1) + [RATE - 0.1], n) for e, n in MIXED]
    rows("**False**: A is exactly as good as B everywhere.", equal)
    rows("**False**: A is better by 0.1 everywhere but in one environment, where it is worse by 0.1.", mixed)
    rows("**False** for `posterior`: A is better by 0.015 everywhere, which is less than its margin of 0.02.", almost)
    rows("**True**: A is better by the gap everywhere.", better)
    frontier_tables()
    power_table()


if __name__ == "__main__":
    main()
