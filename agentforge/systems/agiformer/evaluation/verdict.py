"""The figures on thinking steps by name, and what they say. Imports no torch: a report's page reads them too."""

from __future__ import annotations

from agentforge.evaluation.own_scores import Figure

THINKING = "thinking.json"
CHANGE, GAIN = "change of the distribution by step {}", "gain of the steps"
GAIN_OVER, WITHOUT = "gain over ", "without steps, "
"""Names of figures; those that end with a blank are followed by a control's."""


def after(steps: int) -> str:
    """Return the name of the figure for so many steps."""
    return f"after {steps} steps"


def verdict(figures: dict[str, Figure]) -> str:
    """Return in words what the steps are worth: nothing is claimed whose interval holds 0.

    The same model after 0 steps is no evidence by itself, because it was never trained to be read there; models that
    were trained without steps are.
    """
    gains = {name.removeprefix(GAIN_OVER): figure for name, figure in figures.items() if name.startswith(GAIN_OVER)}
    if not gains:
        return "no control was trained without steps, so nothing can be said about their worth"
    said = []
    for name, gain in gains.items():
        if gain.low > 0:
            said.append(f"{gain.value:.4f} bits per byte better than {name}")
        elif gain.high < 0:
            said.append(f"{-gain.value:.4f} bits per byte worse than {name}")
        else:
            said.append(f"no measurable effect against {name}")
    return "; ".join(said)
