"""The plan of a system: shapes that surgery has not made yet, what each phase computes, and what was stated of it."""

import io
from fractions import Fraction
from typing import Any

import pytest
from rich.console import Console

from agentforge.errors import CheckRefused, UserError
from agentforge.planning import pipeline_plan as module
from agentforge.planning.flops import flops_per_token
from agentforge.planning.launch import refusal
from agentforge.planning.memory import estimate_memory
from agentforge.planning.parameters import count_parameters, trained_parameters
from agentforge.planning.pipeline_plan import PipelinePlan, check_pipeline_budget, is_pipeline, make_pipeline_plan
from agentforge.planning.plan import make_plan
from agentforge.planning.shapes import maker_of, shape_from_config, shape_of
from agentforge.planning.spec_checks import Claim
from agentforge.planning.tables import pipeline_table
from agentforge.recipe.hardware import load_hardware
from agentforge.recipe.loading import load_recipe
from agentforge.recipe.schema import Recipe, Surgery
from agentforge.systems.adamba.planning import widths_of_a_step
from agentforge.systems.adamba.recipe_sections import Nested
from agentforge.systems.adamba.surgery.graft import MambaSizes
from agentforge.systems.adamba.surgery_shapes import operated

LLAMA = {
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def system(profile: str | None = None, *overrides: str) -> PipelinePlan:
    return make_pipeline_plan(load_recipe("adamba", overrides, profile), "adamba", overrides, profile)


@pytest.fixture(scope="module")
def whole() -> PipelinePlan:
    return system()


def surgery(operation: str, **options: Any) -> Surgery:
    return Surgery.model_validate({"operation": operation, **options})


def test_a_graft_has_the_mixer_that_surgery_gives_it() -> None:
    grafted = operated(LLAMA, surgery("graft", mamba={"d_state": 16}))
    made = MambaSizes(d_state=16).fields(64, 16)
    for name in ("mamba_n_heads", "mamba_d_ssm", "mamba_d_state", "mamba_d_conv", "mamba_n_groups"):
        assert grafted[name] == made[name]
    assert shape_from_config(grafted).num_key_value_heads == 4


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (surgery("expand", width="5/4"), (80, 5, 5, 2)),
        (surgery("expand", shape={"hidden_size": 96, "num_hidden_layers": 3}), (96, 4, 4, 3)),
        (surgery("slice", width="1/2"), (32, 2, 2, 2)),
        (surgery("truncate", layers=1), (64, 4, 4, 1)),
        (surgery("order"), (64, 4, 4, 2)),
    ],
)
def test_operations_change_the_sizes(how: Surgery, expected: tuple[int, ...]) -> None:
    shape = shape_from_config(operated(operated(LLAMA, surgery("graft")), how))
    assert shape.mixer is not None and shape.mixer.inner == 16 * shape.mixer.heads
    found = (shape.hidden_size, shape.num_attention_heads, shape.mixer.heads, shape.num_hidden_layers)
    assert found == expected


def test_the_phases_have_the_sizes_of_the_specification(whole: PipelinePlan) -> None:
    sizes = {part.name: part.plan.shape.hidden_size for part in whole.parts}
    assert list(sizes.values()) == [2048, 2048, 2560, 4096, 4096, 4096]
    by_name = {part.name: part for part in whole.parts}
    grown = by_name["adamba/phase4b"].plan.parameters - by_name["adamba/phase3b"].plan.parameters
    assert by_name["adamba/phase4b"].trained == grown
    assert (
        by_name["adamba/phase1"].trained
        == sum(p.trained for p in whole.parts if p.name == "adamba/phase1")
        < 0.2 * by_name["adamba/phase1"].plan.parameters
    )


def test_what_makes_a_checkpoint_is_found_by_its_name() -> None:
    for path, name in (
        ("runs/adamba/Adamba-Phase1-v1.0.0-grafted", "adamba/phase1_graft"),
        ("runs/adamba/Adamba-Phase1-v1.0.0-model", "adamba/phase1"),
        ("runs/adamba/Adamba-Phase2-v1.0.0-ordered", "adamba/phase2_order"),
        ("runs/adamba/Adamba-Phase3-v1.0.0-expanded", "adamba/phase3a"),
        ("runs/adamba/Adamba-Tiny-Phase3-v1.0.0-model", "adamba/phase3b"),
    ):
        found = maker_of(path)
        assert found is not None and found[0] == name


@pytest.mark.parametrize(
    ("nested", "expected"),
    [
        ({"widths": ["1/2", "1/4"]}, {Fraction(1, 4): 1.0, Fraction(1, 2): 1.0}),
        ({"widths": ["1/2", "3/4", "1/4"]}, {Fraction(1, 4): 1.0, Fraction(1, 2): 0.5, Fraction(3, 4): 0.5}),
        ({"widths": ["1/4"], "random": 3}, {Fraction(1, 4): 1.0}),
        ({"widths": ["1/4"], "mix_and_match": True}, {Fraction(1, 4): 1.0, Fraction(5, 8): 1.0}),
    ],
)
def test_a_step_has_the_narrowest_width_and_some_between(nested: dict[str, Any], expected: dict[Any, float]) -> None:
    assert dict(widths_of_a_step(Nested.model_validate(nested))) == expected
    assert widths_of_a_step(None) == []


def recipe(**train: Any) -> Recipe:
    config = operated(LLAMA, surgery("graft"))
    del config["head_dim"]  # FalconH1 has no such field: `train` would refuse it
    return Recipe.model_validate(
        {"name": "x", "model": {"config": config}, "data": {"max_length": 64}, "train": {"method": "pretrain", **train}}
    )


def flops(**train: Any) -> float:
    one = recipe(**train)
    return flops_per_token(one, shape_of(one), recompute=False)


def test_each_part_of_nested_training_costs_what_it_costs_by_itself() -> None:
    shape = shape_of(recipe())
    half = count_parameters(shape.scaled(Fraction(1, 2)))
    narrow = flops(nested={"widths": ["1/2"]}) - flops()
    assert narrow == 6.0 * half.multiplied + 12 * 2 * 32 * 64
    exits = {"layers": [1], "agreement": None}
    assert flops(exits=exits) - flops() == 6.0 * 96 * 64
    assert flops(exits=exits | {"scale": 0.0}) - flops() == 2.0 * 96 * 64
    mixers = trained_parameters(recipe(trainable=["*.mamba.*"]), shape)
    assert flops() - flops(trainable=["*.mamba.*"]) == 2.0 * (count_parameters(shape).multiplied - mixers)


def test_what_reads_parts_of_matrices_is_not_said_to_be_sharded() -> None:
    nested = recipe(nested={"widths": ["1/2"]})
    assert refusal(recipe(), "zero3") is None
    assert "train.nested reads parts of whole matrices" in str(refusal(nested, "zero3"))
    plan = make_plan(load_recipe("adamba/phase4b"))
    assert plan.fits and plan.launch.strategy == "ddp"
    plan = make_plan(load_recipe("adamba/phase4b", ["train.args.optim=adamw_torch"]))
    assert plan.divided is None and not plan.fits  # the reason for its 8-bit optimiser
    plain, teacher = (
        estimate_memory(load_recipe("adamba/phase1", ["train.distill=null"])),
        estimate_memory(load_recipe("adamba/phase1")),
    )
    assert teacher.weights - plain.weights == 2 * 1_711_376_384


def test_the_specifications_figures(whole: PipelinePlan) -> None:
    said = {verdict.says.split(":")[0]: verdict for verdict in whole.verdicts}
    price = said["8x H200 at $1.96 a GPU and hour, $15.68"]
    assert price.wrong is None and "44% cheaper than configs/hardware/8xh200.yaml, which has $28.00" in str(price.note)
    assert "tokens for each parameter" in str(said["phase 4b, train 4096"].note)
    assert said["total ~60 h, ~$940"].wrong is None and "are expected" in str(said["total ~60 h, ~$940"].note)
    single = system("single")
    saved = whole.dollars.mid - single.dollars.mid
    verdict = said["single expansion to 2560"]
    assert f"would save ${saved:,.0f}" in str(verdict.wrong or verdict.note)
    assert [part.name for part in single.parts] == [p.name for p in whole.parts if "phase4" not in p.name]
    assert single.verdicts == []


@pytest.mark.parametrize(
    ("price", "says"), [(15.68, "44% cheaper"), (28.0, "as configs/hardware/8xh200.yaml has it"), (50.0, "79% dearer")]
)
def test_a_price_that_someone_pays_is_never_wrong(
    price: float, says: str, whole: PipelinePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_without_verdicts", lambda *_: whole)
    monkeypatch.setattr(module, "claims_for", lambda recipe: [Claim(says="x", dollars_per_hour=price)])
    (verdict,) = system().verdicts
    assert verdict.wrong is None and says in str(verdict.note)


def test_adamba_costs_what_its_user_pays(whole: PipelinePlan) -> None:
    assert {part.plan.hardware.provider for part in whole.parts} == {"hpc-ai"}
    assert whole.dollars.mid == pytest.approx(whole.hours.mid * 8 * 1.96)
    elsewhere = load_recipe("adamba/phase1", ["hardware.provider=null"])
    assert load_hardware(elsewhere.hardware).dollars_per_gpu_hour == 3.50
    out = io.StringIO()
    Console(file=out, width=170).print(pipeline_table(whole))
    assert "hpc-ai*" in out.getvalue() and "spheron" in out.getvalue() and "8xh200.yaml" in out.getvalue()


def test_a_system_is_refused_over_its_budget(whole: PipelinePlan) -> None:
    check_pipeline_budget(whole)
    with pytest.raises(CheckRefused, match="its budget is 500"):
        check_pipeline_budget(system(None, "budget.max_cost=500"))


def test_systems_are_recipes_with_several_trainings() -> None:
    assert is_pipeline(load_recipe("adamba")) and is_pipeline(load_recipe("affine"))
    assert not is_pipeline(load_recipe("aj")) and not is_pipeline(load_recipe("adamba/phase1"))


@pytest.mark.parametrize(("name", "profile"), [("adamba", None), ("adamba", "tiny"), ("affine", None), ("aj", "tiny")])
def test_it_prints(name: str, profile: str | None) -> None:
    out = io.StringIO()
    plan = make_pipeline_plan(load_recipe(name, profile=profile), name, (), profile)
    Console(file=out, width=170).print(pipeline_table(plan))
    for part in plan.parts:
        assert part.name in out.getvalue()
    unknown = any(part.plan.tokens is None for part in plan.parts)
    assert ("not counted yet" in out.getvalue()) is unknown


def test_a_claim_about_no_stage_is_named(whole: PipelinePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "claims_for", lambda recipe: [Claim(says="x", recipe="adamba/phase9", hours=1)])
    with pytest.raises(UserError, match="about adamba/phase9, which no training stage reads"):
        system()
