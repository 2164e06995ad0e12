"""What `train` could not do with values that are each right is refused when the recipe is read."""

from __future__ import annotations

from typing import Any

import pytest

from agentforge.errors import UserError
from agentforge.recipe.loading import Origin, load_recipe, validate

LORA = {"r": 4}


def read(method: str, args: dict[str, Any], lora: dict[str, Any] | None = None) -> None:
    raw = {"name": "x", "model": {"path": "base"}, "train": {"method": method, "args": args, "lora": lora}}
    validate(raw, Origin("x", ()))


@pytest.mark.parametrize(
    ("method", "args", "says"),
    [
        ("kto", {"per_device_train_batch_size": 1}, r"per_device_train_batch_size is 1; KTO .* give at least 2"),
        ("kto", {"train_sampling_strategy": "random"}, r"train_sampling_strategy is 'random'"),
        ("kto", {"beta": 0}, r"beta is 0, and the loss kto multiplies every gradient by it"),
        (
            "kto",
            {"beta": 0.0, "loss_type": "apo_zero_unpaired"},
            r"beta is 0, and the loss apo_zero_unpaired multiplies",
        ),
        ("dpo", {"beta": 0}, r"beta is 0, and the loss sigmoid multiplies"),
        ("dpo", {"beta": 0, "loss_type": "ipo"}, r"beta is 0, and the loss ipo divides by it"),
        ("dpo", {"beta": 0, "loss_type": ["sft", "sppo_hard"]}, r"beta is 0, and the loss sppo_hard divides by it"),
        ("dpo", {"loss_type": "exo_pair"}, r"label_smoothing is 0; the loss exo_pair needs"),
        ("dpo", {"loss_type": "aot", "use_weighting": True}, r"use_weighting weighs pairs, and the loss aot"),
        ("dpo", {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0]}, r"loss_weights has 1 weights for 2 losses"),
        (
            "dpo",
            {"loss_type": "bco_pair", "f_divergence_type": "forward_kl"},
            r"f_divergence_type is .*bco_pair does not",
        ),
        ("dpo", {"sync_ref_model": True, "precompute_ref_log_probs": True}, r"sync_ref_model changes the reference"),
    ],
)
def test_refused(method: str, args: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=rf"^x: train\.args\.{says}") as refused:
        read(method, args)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_refused_with_lora(method: str) -> None:
    with pytest.raises(UserError, match=r"train\.args\.sync_ref_model needs a reference model of its own"):
        read(method, {"sync_ref_model": True}, LORA)
    with pytest.raises(UserError, match=r"train\.lora\.target_modules names lm_head"):
        read(method, {}, LORA | {"target_modules": ["q_proj", "lm_head"]})


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("kto", {"per_device_train_batch_size": 1, "loss_type": "apo_zero_unpaired"}),  # it estimates no KL
        ("dpo", {"per_device_train_batch_size": 1, "sync_ref_model": True}),
        ("dpo", {"beta": 0, "loss_type": "sft"}),
        ("dpo", {"loss_type": "exo_pair", "label_smoothing": 1e-3}),
        ("grpo", {"beta": 0}),  # a loss with its reference switched off
    ],
)
def test_what_can_be_trained_passes(method: str, args: dict[str, Any]) -> None:
    read(method, args)


def test_a_shipped_recipe_with_an_override_names_it() -> None:
    with pytest.raises(UserError, match=r"train\.args\.beta is 0"):
        load_recipe("affine/dpo", ["train.args.beta=0"])
