"""The plan of aj against the figures that were worked out by hand, and what it refuses."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agentforge.errors import CheckRefused, UserError
from agentforge.planning.constants import HYBRID_TIME, NF4_TIME
from agentforge.planning.cost import Range, compute_hours, dollars
from agentforge.planning.flops import count_tokens, flops_per_token
from agentforge.planning.plan import check_budget, make_plan
from agentforge.planning.shapes import shape_from_config, shape_of
from agentforge.planning.slowdown import has_scan, slowdown
from agentforge.planning.spec_checks import check_claims, claims_for
from agentforge.planning.tables import plan_table
from agentforge.recipe.hardware import load_hardware
from agentforge.recipe.loading import load_recipe
from agentforge.recipe.schema import Recipe
from tests.manifests import write_manifest


def test_aj_on_one_h200() -> None:
    plan = make_plan(load_recipe("aj"))
    assert (plan.parameters, plan.trained) == (32_763_876_352, 536_870_912)
    assert plan.tokens is not None and plan.tokens.slots == 163_840_000
    assert plan.tokens.epochs is None  # 80,000 packed rows; how many hold the 127,366 is for `prepare` to count
    train = next(stage for stage in plan.stages if stage.stage == "train")
    assert 20 <= train.hours.mid <= 30 and 70 <= train.dollars.mid <= 105
    assert train.dollars.mid == pytest.approx(train.hours.mid * 3.5)
    assert 150e9 < plan.disk < 400e9
    check_budget(plan)


def test_the_evaluations_of_run_are_in_the_plan() -> None:
    plan = make_plan(load_recipe("aj"))
    costs = {stage.stage: stage for stage in plan.stages if stage.stage.startswith("evaluate")}
    assert list(costs) == ["evaluate base", "evaluate merged", "evaluate q4km"]
    # a 32B GGUF answers 243 questions on 20 cores: an hour or so, while the checkpoint takes minutes on the card
    assert 0.3 < costs["evaluate q4km"].hours.low < 1.5 < 3 < costs["evaluate q4km"].hours.high < 24
    assert costs["evaluate base"].hours.high < 0.2
    assert "evaluate base" not in {stage.stage for stage in make_plan(load_recipe("aj/sft")).stages}


def test_eight_gpus_take_an_eighth_of_the_time_and_the_same_money() -> None:
    one, eight = make_plan(load_recipe("aj")), make_plan(load_recipe("aj", profile="8xh200"))
    train = [next(stage for stage in plan.stages if stage.stage == "train") for plan in (one, eight)]
    assert train[1].hours.mid == pytest.approx(train[0].hours.mid / 8)
    assert train[1].dollars.mid == pytest.approx(train[0].dollars.mid)


def test_flops_are_four_times_the_parameters_for_lora_and_six_for_all() -> None:
    recipe = load_recipe("aj")
    shape = shape_of(recipe)
    lora = flops_per_token(recipe, shape, recompute=False)
    recomputed = flops_per_token(recipe, shape, recompute=True)
    full = flops_per_token(load_recipe("aj", ["train.lora=null"]), shape, recompute=False)
    parameters = 32.76e9
    assert lora == pytest.approx(4 * parameters, rel=0.1)
    assert recomputed == pytest.approx(6 * parameters, rel=0.1)
    assert full == pytest.approx(6 * parameters + 12 * 64 * 5120 * 2048, rel=0.03)


def test_hours_and_dollars() -> None:
    hardware = load_hardware("1xh200")
    hours = compute_hours(989e12 * 3600, hardware)
    assert (hours.low, hours.mid, hours.high) == pytest.approx((1 / 0.45, 1 / 0.35, 1 / 0.20))
    assert dollars(Range(1, 2, 3), load_hardware("8xh200")) == Range(28.0, 56.0, 84.0)


def verdicts() -> dict[str, str]:
    recipe = load_recipe("aj")
    found = check_claims(claims_for(recipe), recipe, shape_of(recipe))
    return {verdict.says: verdict.wrong or verdict.note or "right" for verdict in found}


@pytest.mark.parametrize(
    ("says", "because"),
    [
        ("LoRA r=64", "right"),
        ("~2.2 s/step", "14,895 tokens per second"),
        ("training (5000 steps) ~11", "7.92 s per step is 4,137 tokens per second"),
        ("~11 hours at ~2.2", "5000 x 2.2 s = 3.06 h, and 11 h = 7.92 s per step"),
        ("1x NVIDIA H100/H200", "one H100 has 79.1 GiB, not 130"),
        ("mixed dataset (300K", "0.27 of one epoch"),
        ("127,366 total", "0.63 of one epoch"),
        ("127,366 examples:", "add up to 211,689 rows"),
        ("10 % Western", "89 of 127,366 rows are 0.07%; 10% would repeat each row 143 times"),
        ("7 HuggingFace", "and the base is 65.5 GB more"),
    ],
)
def test_the_specifications_figures(says: str, because: str) -> None:
    assert because in next(text for statement, text in verdicts().items() if statement.startswith(says))


def test_impossible_speed_is_impossible_even_without_recomputation() -> None:
    recipe = load_recipe("aj")
    useful = flops_per_token(recipe, shape_of(recipe), recompute=False) * 32768 / 2.2 / 989e12
    assert useful == pytest.approx(1.97, rel=0.08)


def test_over_budget_is_refused() -> None:
    with pytest.raises(
        CheckRefused, match=r"will probably cost \$1\d\d\.\d\d .* budget\.max_cost is \$60\.00"
    ) as caught:
        check_budget(make_plan(load_recipe("aj", ["budget.max_cost=60"])))
    assert caught.value.exit_code == 3
    with pytest.raises(CheckRefused, match=r"budget\.max_hours is 12"):
        check_budget(make_plan(load_recipe("aj", ["budget.max_hours=12"])))


def test_four_bits_and_scans_take_longer() -> None:
    quantised, plain = load_recipe("aj", profile="rtx4090"), load_recipe("aj", ["model.quantize=null"], "rtx4090")
    hybrid = load_recipe("adamba/phase1")
    assert slowdown(plain, shape_of(plain)) == (Range(1, 1, 1), "")
    assert slowdown(quantised, shape_of(quantised)) == (NF4_TIME.range, "; nf4 x 1.1 to 1.5")
    assert slowdown(hybrid, shape_of(hybrid))[0] == HYBRID_TIME.range
    bamba = {"model_type": "bamba", "hidden_size": 64, "mamba_n_heads": 8, "num_hidden_layers": 2, "vocab_size": 96}
    assert has_scan(shape_from_config(bamba | {"num_attention_heads": 4, "num_key_value_heads": 2}))
    train = next(stage for stage in make_plan(quantised).stages if stage.stage == "train")
    flops = flops_per_token(quantised, shape_of(quantised), recompute=True) * 163_840_000
    expected = compute_hours(flops, load_hardware("rtx4090")).mid * NF4_TIME.range.mid
    assert train.hours.mid == pytest.approx(expected)


LLAMA_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
LORA = {"r": 8, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]}


@pytest.mark.parametrize(
    ("quantize", "lora", "published"), [(None, LORA, 3083), ("nf4", LORA, 2413), (None, None, 1650)]
)
def test_a_4090_is_as_fast_as_published(quantize: str | None, lora: dict[str, Any] | None, published: int) -> None:
    """README of torchtune: Llama 3.1 8B, two packed rows of 2048, compiled."""
    recipe = Recipe.model_validate(
        {
            "name": "x",
            "hardware": "rtx4090",
            "model": {"config": LLAMA_8B, "quantize": quantize},
            "data": {"max_length": 2048},
            "train": {"lora": lora},
        }
    )
    shape = shape_of(recipe)
    flops = flops_per_token(recipe, shape, recompute=True)
    hours = compute_hours(flops, load_hardware("rtx4090")) * slowdown(recipe, shape)[0]
    slowest, likely, fastest = (1 / 3600 / value for value in (hours.high, hours.mid, hours.low))
    assert slowest < published <= 1.01 * fastest and 0.7 < likely / published < 1.15


def test_what_cannot_fit_is_refused() -> None:
    with pytest.raises(CheckRefused, match=r"needs 75\.0 GiB per device and 8 % to spare, but 1xh100"):
        check_budget(make_plan(load_recipe("aj", ["hardware=1xh100"])))


def test_prepared_data_replace_the_guess(tmp_path: Path) -> None:
    recipe = load_recipe("aj", [f"output_dir={tmp_path}"])
    directory = recipe.artifact("data")
    directory.mkdir(parents=True)
    train = {"rows": 1000, "tokens": 500_000, "packed_rows": 250, "packed_fill": 0.98}
    write_manifest(directory, metrics={"train": train})
    tokens = count_tokens(recipe)
    assert tokens is not None and tokens.measured
    assert (tokens.real, tokens.epochs) == (round(163_840_000 * 0.98), 320.0)
    unpacked = count_tokens(load_recipe("aj", [f"output_dir={tmp_path}", "train.args.packing=false"]))
    assert unpacked is not None and unpacked.real == round(163_840_000 * 500 / 2048)
    by_epochs = ["train.args.max_steps=-1", "train.args.num_train_epochs=2", f"output_dir={tmp_path}"]
    epochs = count_tokens(load_recipe("aj", by_epochs))
    assert epochs is not None and epochs.steps == 2 * 16  # 250 rows, 16 a step


def test_epochs_of_unknown_data_have_no_length() -> None:
    recipe = Recipe.model_validate({"name": "x", "train": {"args": {"num_train_epochs": 1}}})
    assert count_tokens(recipe) is None


@pytest.mark.parametrize(
    ("data", "args"),
    [
        (
            {"size": 7473},
            {"num_train_epochs": 1},
        ),  # rows that are packed: as many full ones would be 6.4 times too many
        ({"size": 7473}, {"num_train_epochs": 1, "packing": False}),
        ({}, {"max_steps": 100, "packing": False}),
    ],
)
def test_before_prepare_no_row_counts_as_a_full_one(data: dict[str, int], args: dict[str, Any]) -> None:
    sizes = {"model_type": "qwen3", "vocab_size": 512}
    recipe = Recipe.model_validate(
        {"name": "x", "model": {"config": sizes}, "data": data, "train": {"method": "sft", "args": args}}
    )
    assert count_tokens(recipe) is None
    tokens = recipe.model_copy(update={"data": recipe.data.model_copy(update={"size": 10**6, "weights": "tokens"})})
    counted = count_tokens(tokens)
    assert counted is None if args.get("packing") is False else 0 < counted.slots < 1.1e6


def test_an_unknown_base_is_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'deepseek-ai/DeepSeek-R1-Distill-Qwen-32B'"):
        make_plan(load_recipe("aj", ["model.path=deepseek-ai/DeepSeek-R1-Distil-Qwen-32B"]))


def test_a_directory_s_config_comes_first(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "qwen3", "hidden_size": 64, "num_hidden_layers": 2})
    )
    assert shape_of(load_recipe("aj", [f"model.path={tmp_path}"])).num_hidden_layers == 2


def test_the_tiny_profile_knows_the_base_that_is_not_made_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("aj", ["output_dir=elsewhere"], profile="tiny")
    assert shape_of(load_recipe("aj", profile="tiny")).hidden_size == 256
    with pytest.raises(UserError, match="is not here, so its shape is not known"):
        shape_of(recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": "elsewhere/nothing"})}))


@pytest.mark.parametrize("profile", [None, "tiny", "rtx4090", "1xh200", "8xh200"])
def test_it_prints(profile: str | None) -> None:
    out = io.StringIO()
    Console(file=out, width=160).print(plan_table(make_plan(load_recipe("aj", profile=profile))))
    assert "Memory" in out.getvalue() and "Time and money" in out.getvalue()
    assert ("cannot be right: ~2.2 s/step" in out.getvalue()) is (profile in (None, "1xh200"))
