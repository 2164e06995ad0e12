"""The router: what it learns from measured regrets, what it reports, and which width it makes `generate` take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agentforge.errors import UserError
from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM
from agentforge.systems.adamba.widths.regret import measure_regrets, scored_tokens
from agentforge.systems.adamba.widths.router import PENALTIES, Router, fit_router, load_router, ridge, save_router
from agentforge.systems.adamba.widths.submodels import parse_width, submodel
from tests.systems.adamba.decoding import counted_layers, random_model

EASY, HARD = range(1, 31), range(31, 61)
SHARES = [parse_width("1/4"), parse_width(1)]


@pytest.fixture(scope="module")
def model() -> AdambaForCausalLM:
    """Each token's successor stands in its embedding: of easy ones in the first quarter of the channels, of hard ones
    in the others. No layer adds anything."""
    model = random_model(layers=2)
    generator = torch.Generator().manual_seed(5)
    codes = torch.zeros(61, 64)
    codes[EASY, 1:16] = torch.randn(30, 15, generator=generator).sign()
    codes[HARD, 16:] = torch.randn(30, 48, generator=generator).sign()
    codes[HARD, 0] = 1
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "out_proj.weight")):
                parameter.zero_()
            elif "layernorm" in name:
                parameter.fill_(1)
        model.model.embed_tokens.weight.copy_(codes)
        model.lm_head.weight.copy_(codes.roll(1, 0))
    return model


def rows(count: int, seed: int, length: int = 20) -> Tensor:
    """Runs of successive tokens: half of the rows among the easy ones, half among the hard ones."""
    random = np.random.default_rng(seed)
    first = random.integers(0, 29 - length, count)
    start = np.where(random.random(count) < 0.5, EASY.start, HARD.start) + first
    return torch.tensor(start[:, None] + np.arange(length))


@pytest.fixture(scope="module")
def router(model: AdambaForCausalLM) -> Router:
    return fit_router(model, [{"input_ids": rows(32, seed)} for seed in range(3)], ["1/4"], tolerance=0.2)


def test_regrets_are_losses_of_what_follows_the_prompt_minus_the_full_models(model: AdambaForCausalLM) -> None:
    ids = rows(6, 9)
    labels = ids.clone()
    labels[:, :12] = -100
    measured = measure_regrets(model, [{"input_ids": ids, "labels": labels}], SHARES)
    with torch.no_grad():
        for row in range(6):
            one, label = ids[row : row + 1], labels[row : row + 1]
            small, full = (submodel(model, share)(one, labels=label).loss for share in SHARES)
            assert measured.regrets[row].tolist() == pytest.approx([float(small - full), 0.0], abs=1e-5)
            prompt = submodel(model, SHARES[0]).model(one[:, :12]).last_hidden_state.mean(1)[0]
            torch.testing.assert_close(measured.features[row], prompt, rtol=0, atol=1e-5)


def test_without_labels_the_second_half_follows() -> None:
    scored = scored_tokens(
        {"input_ids": torch.zeros(1, 9), "attention_mask": torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1]])}
    )
    assert scored.tolist() == [[False] * 6 + [True] * 2]


def test_padding_changes_nothing(model: AdambaForCausalLM) -> None:
    ids = rows(4, 3)
    alone = measure_regrets(model, [{"input_ids": ids}], SHARES)
    padded = torch.nn.functional.pad(ids, (0, 6))
    mask = torch.nn.functional.pad(torch.ones_like(ids), (0, 6))
    together = measure_regrets(model, [{"input_ids": padded, "attention_mask": mask}], SHARES)
    torch.testing.assert_close(together.regrets, alone.regrets, rtol=0, atol=1e-5)
    torch.testing.assert_close(together.features, alone.features, rtol=0, atol=1e-5)


def test_it_picks_better_than_chance_on_prompts_it_has_not_seen(router: Router) -> None:
    report = router.report
    assert report["prompts"] + report["fitted_on"] == 96
    assert report["prompts"] == 32
    assert sum(report["shares"].values()) == pytest.approx(1)
    assert 0.2 < report["shares"]["1/4"] < 0.8
    assert report["regret"] < 0.1 < report["random"]
    assert report["saved"]["low"] > 0
    assert report["fixed"]["1"] == {"regret": 0.0, "parameters": 1.0}
    assert report["regret"] < report["fixed"]["1/4"]["regret"]
    assert report["fixed"]["1/4"]["parameters"] < report["parameters"] < 1
    expected = sum(report["shares"][width] * report["fixed"][width]["regret"] for width in router.widths)
    assert report["random"] == pytest.approx(expected)


def test_generate_takes_the_width_that_the_router_picks(
    model: AdambaForCausalLM, router: Router, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    save_router(tmp_path, router)
    loaded = AdambaForCausalLM.from_pretrained(tmp_path).eval()
    easy, hard = torch.arange(2, 12)[None], torch.arange(32, 42)[None]
    for prompt, called in ((easy, False), (hard, True), (torch.cat([easy, hard]), True)):
        with counted_layers(loaded) as calls:
            output = loaded.generate(prompt, width="router", max_new_tokens=8, do_sample=False)
        assert bool(calls) == called
        assert torch.equal(output, torch.cat([prompt, prompt[:, -1:] + torch.arange(1, 9)], 1))
    kept = load_router(tmp_path)
    assert kept.report == router.report
    assert torch.equal(kept.weight, router.weight)


def test_ridge_against_leaving_out_each_row_in_turn() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(20, 6, generator=generator, dtype=torch.float64)
    features -= features.mean(0)
    targets = features[:, :2] + torch.randn(20, 2, generator=generator, dtype=torch.float64)

    def fit(x: Tensor, y: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
        """The normal equations, with an intercept that is not penalised."""
        ones = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
        penalties = torch.diag(torch.tensor([penalty] * x.shape[1] + [0.0], dtype=x.dtype))
        solution = torch.linalg.solve(ones.T @ ones + penalties, ones.T @ y)
        return solution[:-1], solution[-1]

    def left_out(penalty: float) -> float:
        errors = []
        for row in range(20):
            keep = torch.arange(20) != row
            weight, bias = fit(features[keep], targets[keep], penalty)
            errors.append(((features[row] @ weight + bias - targets[row]) ** 2).mean())
        return float(torch.stack(errors).mean())

    weight, bias = ridge(features, targets)
    expected = fit(features, targets, min(PENALTIES, key=left_out))
    torch.testing.assert_close(weight, expected[0])
    torch.testing.assert_close(bias, expected[1])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"widths": []}, "name at least one below 1"),
        ({"widths": ["1/3"]}, "width 1/3"),
        ({"batches": [{"input_ids": rows(5, 0)}]}, "at least 12 held-out prompts to be fitted and measured, not 5"),
        ({"batches": []}, "no held-out rows"),
    ],
)
def test_what_cannot_be_fitted_is_said(model: AdambaForCausalLM, options: dict[str, Any], sentence: str) -> None:
    usual = {"batches": [{"input_ids": rows(16, 0)}], "widths": ["1/4"], "tolerance": 0.1}
    with pytest.raises(UserError, match=sentence):
        fit_router(model, **(usual | options))


def test_a_model_without_a_router_or_with_another_models_is_refused(model: AdambaForCausalLM, router: Router) -> None:
    other = random_model(hidden_size=128)
    with pytest.raises(UserError, match=r"there is no router\.json beside the checkpoint"):
        other.generate(rows(1, 0), width="router", max_new_tokens=2)
    other.router = router
    with pytest.raises(UserError, match="the router reads 16 channels, but width 1/4 of this model has 32"):
        other.generate(rows(1, 0), width="router", max_new_tokens=2)
