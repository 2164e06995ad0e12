"""A router: from the prompt alone, how narrow a width will do.

It reads what the narrowest width makes of the prompt (the mean of its final hidden states) and predicts, for each
width, its regret: how much more it loses than the full model, in nats a token, on what follows the prompt. The regrets
that it learns from are measured. It lies beside a checkpoint as ``router.safetensors`` and ``router.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from agentforge.artifacts import write_json
from agentforge.errors import UserError
from agentforge.systems.adamba.widths.regret import Regrets, measure_regrets, prompt_features
from agentforge.systems.adamba.widths.submodels import Model, Widths, parse_width, submodel

WEIGHTS, REPORT = "router.safetensors", "router.json"

PENALTIES = [10.0**power for power in range(-2, 6)]
TEST_EVERY = 3
FEWEST = 12


@dataclass
class Router:
    """A linear prediction of each narrower width's regret.

    Attributes:
        widths: narrowest first; the last is 1, whose regret is 0.
        weight, bias: `(W - 1, D)` and `(W - 1)`, on standardised features.
        mean, scale: `(D)` of the features that it was fitted on.
        tolerance: regret that may be had, in nats a token.
        report: what `fit_router` measured.
    """

    widths: list[str]
    weight: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor
    tolerance: float
    report: dict[str, Any] = field(default_factory=dict)

    def predict(self, features: Tensor) -> Tensor:
        """Return the predicted regrets `(N, W)` of features `(N, D)`."""
        features = (features.float().cpu() - self.mean) / self.scale
        return torch.nn.functional.pad(features @ self.weight.T + self.bias, (0, 1))

    def choose(self, features: Tensor) -> Tensor:
        """Return for each row the index of the narrowest width whose predicted regret is tolerable: `(N)`."""
        # widths rise and the full one's regret is 0, so there is always a first width that is tolerable
        return (self.predict(features) <= self.tolerance).int().argmax(-1)


def fit_router(
    model: Model, batches: Iterable[Mapping[str, Tensor]], widths: Sequence[Widths], tolerance: float
) -> Router:
    """Fit a router to measured regrets, and measure it on prompts that it was not fitted to (every third row).

    Args:
        model: the full model, in evaluation mode.
        batches: held-out rows as for `measure_regrets`.
        widths: narrower ones; the full one is always among those it picks from.
        tolerance: in nats a token.

    Raises:
        UserError: no widths, or too few rows.
    """
    shares = sorted({parse_width(width) for width in widths} | {parse_width(1)})
    if len(shares) < 2:
        raise UserError("a router picks among widths: name at least one below 1")
    measured = measure_regrets(model, batches, shares)
    rows = torch.arange(len(measured.features))
    if len(rows) < FEWEST:
        raise UserError(f"a router needs at least {FEWEST} held-out prompts to be fitted and measured, not {len(rows)}")
    # Held-out rows measure the savings; on the rows it was fitted to, the router would flatter itself.
    test = rows % TEST_EVERY == TEST_EVERY - 1
    router = _fit(measured.part(~test), [str(share) for share in shares], tolerance)
    costs = [parameters(submodel(model, share)) / parameters(model) for share in shares]
    router.report = {"fitted_on": int((~test).sum()), **evaluate_router(router, measured.part(test), costs)}
    return router


def _fit(measured: Regrets, widths: list[str], tolerance: float) -> Router:
    features, regrets = measured.features.double(), measured.regrets[:, :-1].double()
    mean, scale = features.mean(0), features.std(0).clamp(min=1e-6)
    weight, bias = ridge((features - mean) / scale, regrets)
    return Router(widths, weight.T.float(), bias.float(), mean.float(), scale.float(), tolerance)


def ridge(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a ridge regression; of `PENALTIES` the one whose leave-one-out errors are least, computed in closed form.

    The error of a left-out row is its residual over 1 - h, h being its entry on the hat matrix' diagonal (Allen 1974,
    Technometrics 16(1)).

    Args:
        features: `(N, D)` with mean 0.
        targets: `(N, K)`.

    Returns:
        weight `(D, K)` and bias `(K)`.
    """
    # One decomposition serves all penalties; the left-out errors follow from it without refitting.
    bias = targets.mean(0)
    u, s, v = torch.linalg.svd(features, full_matrices=False)
    projected = u.T @ (targets - bias)

    def left_out(penalty: float) -> float:
        shrink = s**2 / (s**2 + penalty)
        residuals = targets - bias - u @ (shrink[:, None] * projected)
        hat = (u**2 * shrink).sum(1) + 1 / len(features)
        return float(((residuals / (1 - hat).clamp(min=1e-9)[:, None]) ** 2).mean())

    penalty = min(PENALTIES, key=left_out)
    return v.T @ ((s / (s**2 + penalty))[:, None] * projected), bias


def evaluate_router(router: Router, measured: Regrets, costs: Sequence[float]) -> dict[str, Any]:
    """Return what the router's choices cost and lose on prompts, beside choices that do not look at the prompt.

    Args:
        measured: of prompts that the router has not seen.
        costs: parameters of each width over those of the full model.
    """
    regrets, price = measured.regrets.double(), torch.tensor(costs, dtype=torch.float64)
    chosen = router.choose(measured.features)
    shares = torch.nn.functional.one_hot(chosen, len(costs)).double().mean(0)
    mine, blind = regrets.gather(1, chosen[:, None])[:, 0], regrets @ shares
    # The baseline deals out the same widths blindly. Picking one middle width for every prompt thus counts as no
    # saving.
    saved = blind - mine
    half = 1.96 * float(saved.std()) / len(saved) ** 0.5
    return {
        "prompts": len(regrets),
        "tolerance": router.tolerance,
        "shares": dict(zip(router.widths, shares.tolist(), strict=True)),
        "regret": float(mine.mean()),
        "within_tolerance": float((mine <= router.tolerance).double().mean()),
        "parameters": float(shares @ price),
        "random": float(blind.mean()),
        "saved": {"mean": float(saved.mean()), "low": float(saved.mean()) - half, "high": float(saved.mean()) + half},
        "fixed": {
            width: {"regret": float(regret), "parameters": cost}
            for width, regret, cost in zip(router.widths, regrets.mean(0), costs, strict=True)
        },
    }


def parameters(model: Model) -> int:
    """Return the number of a model's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def route(model: Model, input_ids: Tensor | None, attention_mask: Tensor | None = None) -> str:
    """Return the width for a batch of prompts: the widest that the model's router picks for one of them.

    Raises:
        UserError: the model has no router, or that of another model; or there is no prompt.
    """
    router = router_of(model)
    if input_ids is None:
        raise UserError("width 'router': the router reads the prompt; pass it as input_ids")
    narrow = submodel(model, router.widths[0])
    if narrow.config.hidden_size != len(router.mean):
        raise UserError(
            f"width 'router': the router reads {len(router.mean)} channels, but width {router.widths[0]} of this model "
            f"has {narrow.config.hidden_size}; fit it again"
        )
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    with torch.no_grad():
        hidden = narrow.model(input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
    return router.widths[int(router.choose(prompt_features(hidden, mask)).max())]


def router_of(model: Model) -> Router:
    """Return a model's router: its attribute ``router``, else the files beside the checkpoint it came from."""
    router: Router | None = getattr(model, "router", None)
    where = model.name_or_path
    if router is None and where and (Path(where) / REPORT).is_file():
        router = model.router = load_router(Path(where))
    if router is None:
        raise UserError(f"width 'router': there is no {REPORT} beside {where or 'the checkpoint'}; fit one first")
    return router


def save_router(directory: Path, router: Router) -> None:
    """Write a router beside a checkpoint."""
    save_file(
        {name: getattr(router, name).contiguous() for name in ("weight", "bias", "mean", "scale")}, directory / WEIGHTS
    )
    entry = {"widths": router.widths, "tolerance": router.tolerance, "report": router.report}
    write_json(directory / REPORT, entry)


def load_router(directory: Path) -> Router:
    """Return the router that lies beside a checkpoint."""
    entry = json.loads((directory / REPORT).read_text(encoding="utf-8"))
    tensors: dict[str, Any] = load_file(directory / WEIGHTS)
    return Router(**entry, **tensors)
