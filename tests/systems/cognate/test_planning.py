"""What `plan` says of a Cognate, against figures worked out by hand and against what a model really computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from agentforge.errors import UserError
from agentforge.models.config_check import check_model
from agentforge.planning.flops import flops_per_token
from agentforge.planning.memory import estimate_memory
from agentforge.planning.parameters import count_parameters
from agentforge.planning.plan import make_plan
from agentforge.planning.shapes import shape_from_config, shape_of
from agentforge.planning.step_work import step_work
from agentforge.recipe.schema import Model, Recipe, Surgery
from agentforge.recipe.tables import fields_of
from agentforge.systems.cognate.modeling.configuration import CognateConfig
from agentforge.systems.cognate.modeling.neural_memory import CHUNK as CHUNK_OF_THE_SCAN
from agentforge.systems.cognate.modeling.work import counted_work
from agentforge.systems.cognate.operations import branched
from agentforge.systems.cognate.planning import CHUNK, TABLE, Sizes
from tests.systems.cognate.trunks import trunk


def recipe_of(hardware: str = "cpu", length: int = 512, config: dict[str, Any] | None = None, **args: Any) -> Recipe:
    settings = {"per_device_train_batch_size": 16, "max_steps": 1000, **args}
    return Recipe.model_validate(
        {
            "name": "C",
            "hardware": hardware,
            "model": {"config": {"model_type": "cognate", **(config or {})}},
            "data": {"max_length": length},
            "train": {"method": "pretrain", "args": settings},
        }
    )


def test_the_default_model_by_hand() -> None:
    recipe = recipe_of()
    shape = shape_of(recipe)
    assert count_parameters(shape).total == 25_193_777
    # One layer: q, k, v, o of 320 x 320, three matrices of 320 x 1280, the memory's four of 320 x 128, the gate's
    # 640 x 32 and 32 x 320. The core's two layers run (2 + 1) x 3 times, which is 8 times more than they are counted.
    layer = 4 * 320 * 320 + 3 * 320 * 1280 + 4 * 320 * 128 + 640 * 32 + 32 * 320
    attention = 4 * 320 * 512
    runs = 6 + 2 * 9
    scan = 2 * 64 * 64 * (10 + 8 + 2 + 2 / 3)
    again = 2 * 8 * (2 * layer + attention)
    work = step_work(recipe, shape)
    assert work.flops == pytest.approx(3 * again + 3 * runs * scan)
    assert work.head_flops == 6 * 2 * 32768 * 320, "the losses of the two steps before the last"
    whole = 6 * 25_193_777 + 3 * 8 * attention + work.flops + work.head_flops
    assert flops_per_token(recipe, shape, recompute=False) == pytest.approx(whole)
    # checkpointing runs everything but embedding and head again: here to within what is no matrix
    more = flops_per_token(recipe, shape, recompute=True) - whole
    assert more == pytest.approx(runs * (2 * layer + scan + attention), rel=0.01)
    assert work.checkpoints == 320 * 2 * 8


@pytest.mark.parametrize(
    ("config", "share"),
    [
        ({"recursion": "plain"}, 2 * 2 / (2 * 8)),  # 3 runs of the core instead of 9
        ({"max_recursions": 1, "halting": "none"}, 2 * 2 / (2 * 8)),
        ({"no_grad_recursions": 2}, (1 + 2 / 3) / 3),  # two of three iterations are computed forward only
    ],
)
def test_a_shorter_loop_costs_as_much_less(config: dict[str, Any], share: float) -> None:
    whole, less = (recipe_of(config={"memory_layers": [], **more}) for more in ({}, config))
    flops = [step_work(recipe, shape_of(recipe)).flops for recipe in (whole, less)]
    assert flops[1] == pytest.approx(share * flops[0])


def test_only_steps_whose_loss_is_computed_use_the_head() -> None:
    for config, uses in (({"halting": "none"}, 0), ({"step_loss_share": 0.25}, 0.5), ({}, 2)):
        recipe = recipe_of(config=config)
        assert step_work(recipe, shape_of(recipe)).head_flops == uses * 6 * 32768 * 320


def test_a_forward_pass_computes_what_the_plan_expects() -> None:
    model = trunk(memory_layers=[0, 2], halting="none")
    config = {**model.config.to_dict(), "model_type": "cognate"}
    shape = shape_from_config(config)
    sizes, length = Sizes.of(config), 128
    ids = torch.randint(0, 64, (1, length))
    with torch.no_grad(), counted_work() as work:
        model(ids, use_cache=False)
    # Attention is computed to all keys and then masked, and the persistent tokens are keys too.
    expected = 2 * count_parameters(shape).multiplied
    expected += sum(2 * (sizes.runs(layer) - 1) * sizes.layer_weights(layer) for layer in range(sizes.layers))
    expected += sum(sizes.runs(layer) for layer in range(sizes.layers)) * 4 * sizes.width * (length + 2)
    expected += sum(sizes.runs(layer) * sizes.scan_flops(CHUNK) for layer in sizes.memories)
    assert work.flops / length == pytest.approx(expected, rel=0.05)


def test_six_gigabytes_are_enough_for_16_rows() -> None:
    memory = estimate_memory(recipe_of(bf16=False))
    assert memory.total(gradient_checkpointing=True) < 3 * 2**30
    # kept for the backward pass of all 24 runs, it would be four times too much for a card of 6 GB
    assert memory.total(gradient_checkpointing=False) > 10 * 2**30


def test_the_hours_of_a_gpu_are_told() -> None:
    plan = make_plan(recipe_of("1xh200", bf16=True))
    assert plan.fits and plan.parameters == plan.trained == 25_193_777
    (train,) = (stage for stage in plan.stages if stage.stage == "train")
    per_token = flops_per_token(plan.recipe, plan.shape, recompute=plan.memory.recomputes)
    assert train.hours.mid == pytest.approx(16 * 512 * 1000 * per_token / (989e12 * 0.35) / 3600)


def test_what_plan_knows_without_torch_is_what_the_model_has() -> None:
    assert CHUNK == CHUNK_OF_THE_SCAN
    defaults = {name: field.get("default") for name, field in fields_of(TABLE).items()}
    config = CognateConfig()
    assert Sizes.of({}) == Sizes.of(config.to_dict())
    assert {name: defaults[name] for name in Sizes.__dataclass_fields__} == {
        name: getattr(config, name) for name in Sizes.__dataclass_fields__
    }
    assert Sizes.of({}).runs(7) == config.max_recursions * config.core_calls


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hiden_size": 3}, "a cognate has no field 'hiden_size'; did you mean 'hidden_size'"),
        ({"recursion": "trn"}, "recursion"),
        ({"max_recursions": 0}, "max_recursions"),
        ({"exit_threshold": 1.5}, "is no probability"),
        ({"hidden_size": "320"}, "it must be a whole number"),
    ],
)
def test_a_config_is_checked_without_torch(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_model(Model(config={"model_type": "cognate", **fields}))
    check_model(Model(config={"model_type": "cognate", "exit_threshold": 0.9, "memory_layers": [0, 7]}))


@pytest.mark.parametrize(
    ("chosen", "parameters"),
    [
        ({"specialisation": "reasoning"}, 25_193_777),
        # two more heads in eight layers: q, k, v, o of 320 x 128, three convolutions of 128 x 4, three gates a head
        ({"specialisation": "memory"}, 25_193_777 + 8 * (4 * 320 * 128 + 3 * 128 * 4 + 3 * 2 * 321)),
        # four memories and their gates less
        ({"specialisation": "speed"}, 25_193_777 - 4 * (167_302 + 31_040 + 640)),
    ],
)
def test_the_shapes_of_branches_are_known_before_they_are_made(chosen: dict[str, Any], parameters: int) -> None:
    section = Surgery.model_validate({"operation": "branch", "branch": chosen})
    config = branched({"model_type": "cognate"}, section)
    assert count_parameters(shape_from_config(config)).total == parameters
