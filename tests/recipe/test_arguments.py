"""`train.args` and `train.lora` against the tables, and the tables against the installed libraries."""

import inspect

import pytest

from agentforge.errors import UserError
from agentforge.recipe.arguments import OWNED, PPO_OWNED, problems_in
from agentforge.recipe.loading import load_recipe
from agentforge.recipe.methods import config_classes
from agentforge.recipe.tables import HERE, fields_of


def problem(values: dict, config: str = "SFTConfig", section: str = "train.args") -> str:
    found = problems_in(values, config, section)
    assert len(found) == 1, found
    return found[0][1]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("learning_rat", "train.args.learning_rate"),
        ("learning-rate", "train.args.learning_rate"),
        ("batch_size", "train.args.per_device_train_batch_size"),
        ("lr", "train.args.learning_rate"),
        ("warmup", "train.args.warmup_steps"),
        ("warmup_ratio", "train.args.warmup_steps"),
        ("evaluation_strategy", "train.args.eval_strategy"),
        ("max_seq_length", "data.max_length"),
        ("lora_r", "train.lora.r"),
        ("load_in_4bit", "model.quantize"),
        ("gradient_acumulation_step", "train.args.gradient_accumulation_steps"),
    ],
)
def test_misspelt_names_get_the_right_one(given: str, meant: str) -> None:
    assert f"did you mean '{meant}'" in problem({given: 1})


@pytest.mark.parametrize(
    ("given", "meant"), [("lora_r", "r"), ("rank", "r"), ("alpha", "lora_alpha"), ("dropot", "lora_dropout")]
)
def test_misspelt_lora_names_get_the_right_one(given: str, meant: str) -> None:
    assert f"did you mean 'train.lora.{meant}'" in problem({given: 1}, "LoraConfig", "train.lora")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("per_device_train_batch_size", 2.5, "a whole number"),
        ("per_device_train_batch_size", 0, "at least 1"),
        ("max_steps", True, "a whole number"),
        ("learning_rate", "1e-4", "write it without quotes"),
        ("learning_rate", float("nan"), "a number"),
        ("learning_rate", -1, "at least 0"),
        ("packing", 1, "true or false"),
        ("packing", "yes", "true or false"),
        ("lr_scheduler_type", "cosinee", "did you mean 'cosine'?"),
        ("optim", "adamw", "did you mean 'adamw_torch'?"),
        ("packing_strategy", "nope", "one of bfd, bfd_split, wrapped"),
        ("loss_type", "typo", "one of nll, dft, chunked_nll"),
        ("save_strategy", "step", "did you mean 'steps'?"),
        ("report_to", ["wandb", "tensorbord"], "did you mean 'tensorboard'?"),
        ("lr_scheduler_kwargs", [1], "a mapping or text"),
    ],
)
def test_wrong_values_are_refused(name: str, value: object, says: str) -> None:
    text = problem({name: value})
    assert text.startswith(f"train.args.{name} is ") and says in text


@pytest.mark.parametrize(
    "values",
    [
        {"learning_rate": 1},
        {"bf16": None, "tf32": None},
        {"report_to": ["wandb", "tensorboard"]},
        {"report_to": "none"},
        {"eval_strategy": "no"},
        {"lr_scheduler_kwargs": {"num_cycles": 1}},
        {"optim": "paged_adamw_8bit", "warmup_steps": 0.03, "max_steps": -1},
    ],
)
def test_right_values_pass(values: dict) -> None:
    assert problems_in(values, "SFTConfig", "train.args") == []


def test_a_cosine_that_ends_above_0_is_spelt_out() -> None:
    assert "set lr_scheduler_type to cosine_with_min_lr and lr_scheduler_kwargs to {min_lr_rate: 0.1}" in problem(
        {"min_lr_ratio": 0.1}
    )
    given = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}}
    assert problems_in(given, "SFTConfig", "train.args") == []


def test_a_field_of_another_method_names_it() -> None:
    assert "a field of GRPOConfig; see train.method" in problem({"num_generations": 4})


@pytest.mark.parametrize("name", sorted(OWNED))
def test_fields_that_the_recipe_owns_say_where_to_set_them(name: str) -> None:
    config = next(c for c in config_classes() if name in fields_of(c))
    assert f"train.args.{name} is not set here: {OWNED[name]}" in problem({name: 1}, config)


@pytest.mark.parametrize(("value", "fine"), [("gaussian", True), (False, True), ("gausian", False), (3, False)])
def test_lora_initialisation_is_a_bool_or_a_name(value: object, fine: bool) -> None:
    assert (problems_in({"init_lora_weights": value}, "LoraConfig", "train.lora") == []) is fine


@pytest.mark.parametrize("name", sorted(PPO_OWNED))
def test_fields_that_ppo_has_otherwise_say_how(name: str) -> None:
    assert f"train.args.{name} is not set here: {PPO_OWNED[name]}" in problem({name: 1}, "PPOConfig")


def test_the_tables_are_those_of_the_installed_versions() -> None:
    from agentforge.trainers.field_tables import all_tables, to_json

    for name, table in all_tables().items():
        committed = (HERE / f"{name}.json").read_text(encoding="utf-8")
        assert committed == to_json(table), f"{name} has changed: run `python -m agentforge.trainers.field_tables`"


def test_hand_written_choices_stand_in_the_libraries_source() -> None:
    from trl import DPOTrainer, GRPOTrainer
    from trl.generation import vllm_generation

    from agentforge.trainers.field_tables import CHOICES, DPO_LOSSES

    sources = {
        "GRPOConfig": inspect.getsource(inspect.getmodule(GRPOTrainer)) + inspect.getsource(vllm_generation),
        "DPOConfig": inspect.getsource(inspect.getmodule(DPOTrainer)),
    }
    for (config, field), choices in CHOICES.items():
        source = sources[config] + inspect.getsource(inspect.getmodule(_config(config)))
        for choice in choices:
            assert f'"{choice}"' in source or f"'{choice}'" in source, (config, field, choice)
    assert all(f'"{loss}"' in sources["DPOConfig"] for loss in DPO_LOSSES.split())


def _config(name: str) -> type:
    import trl

    return getattr(trl, name)


def test_a_method_that_train_does_not_have_is_refused_with_those_that_there_are() -> None:
    """`reward` was checked by `show` and priced by `plan`, and only `train` said that it does not exist."""
    with pytest.raises(UserError, match=r"one of pretrain, sft, dpo, kto, grpo, ppo"):
        load_recipe("affine/sft", ["train.method=reward"])
