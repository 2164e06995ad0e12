"""Recipes: precedence, profiles, and what a typo gets."""

from pathlib import Path

import pytest

from agentforge.errors import UserError
from agentforge.recipe.loading import (
    Options,
    find_recipe,
    load_recipe,
    load_stages,
    read_extended,
    recipe_names,
    resolved_yaml,
)
from agentforge.recipe.schema import Recipe


def write(directory: Path, text: str, name: str = "r.yaml") -> str:
    path = directory / name
    path.write_text(text)
    return str(path)


def refusal(directory: Path, text: str, *overrides: str, profile: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(write(directory, text), overrides, profile)
    return str(caught.value).replace(f"{directory}/", "")


SHIPPED = [
    (name, profile)
    for name in recipe_names()
    for profile in [None, *read_extended(find_recipe(name)).get("profiles", {})]
]


@pytest.mark.parametrize(("name", "profile"), SHIPPED)
def test_shipped_recipes_are_right_and_survive_show(name: str, profile: str | None, tmp_path: Path) -> None:
    recipe = load_recipe(name, profile=profile)
    assert load_recipe(write(tmp_path, resolved_yaml(recipe))) == recipe


def test_precedence_is_default_extends_recipe_profile_command_line(tmp_path: Path) -> None:
    write(
        tmp_path,
        "name: base\nseed: 1\nversion: 1.0.0\ndescription: base\ntrain: {args: {max_steps: 1, weight_decay: 0.5}}",
        "b.yaml",
    )
    child = write(
        tmp_path,
        "extends: b.yaml\nname: child\nseed: 2\ndescription: child\n"
        "profiles:\n  p: {seed: 3, description: p, train: {args: {max_steps: 3}}}",
    )
    assert load_recipe(child).data.max_length == Recipe(name="x").data.max_length
    assert load_recipe(child).version == "1.0.0"
    assert (load_recipe(child).name, load_recipe(child).seed) == ("child", 2)
    profiled = load_recipe(child, profile="p")
    assert (profiled.seed, profiled.train.args) == (3, {"max_steps": 3, "weight_decay": 0.5})
    overridden = load_recipe(child, ["seed=4"], profile="p")
    assert (overridden.seed, overridden.description) == (4, "p")


def test_lists_are_replaced_and_mappings_merged(tmp_path: Path) -> None:
    write(tmp_path, "name: b\ndata: {max_length: 64, mix: [{dataset: a}, {dataset: b}]}", "b.yaml")
    recipe = load_recipe(write(tmp_path, "extends: b.yaml\ndata: {mix: [{dataset: c}]}"))
    assert recipe.data.max_length == 64 and [source.dataset for source in recipe.data.mix] == ["c"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: x\ndata: {mixx: []}", "r.yaml, line 2: there is no key 'data.mixx'; did you mean 'data.mix'?"),
        (
            "name: x\ndata:\n  mix:\n    - dataset: a\n      wieght: 3",
            "line 5: .*'data.mix.0.wieght'; did you mean 'data.mix.0.weight'?",
        ),
        ("name: x\nsed: 3", "line 2: there is no key 'sed'; did you mean 'seed'?"),
        ("name: x\nlearning_rate: 1", "did you mean 'train.args.learning_rate'?"),
        ("name: x\ntrain: {learning_rate: 1}", "did you mean 'train.args.learning_rate'?"),
        ("name: x\ntrain: {lr: 1}", "did you mean 'train.args.learning_rate'?"),
        ("name: x\ntrain: {args: {learning_rat: 1}}", "did you mean 'train.args.learning_rate'?"),
        ("name: x\nmax_seq_length: 1", "did you mean 'data.max_length'?"),
        ("name: x\nmodel: {lora: {}}", "did you mean 'train.lora'?"),
        ("name: x\ntrain: {method: sftt}", "train.method is 'sftt'; it must be one of .*did you mean 'sft'?"),
        ("name: x\nexport: {gguf: [q4]}", "export.gguf.0 is 'q4'; it must be one of f16, q8, q5km, q4km"),
        ("name: x\nexport: {max_kl: {q9: 1.0}}", "export.max_kl.q9 is 'q9'; it must be one of f16"),
        ("name: x\nhardware: 8xh20", "line 2: there is no hardware '8xh20'; did you mean '8xh200'?"),
        ("name: x\nmodel: {tokenizer: 5}", "model.tokenizer is 5; it must be text or a mapping"),
        (
            "name: x\nmodel: {tokenizer: {vocab_size: 5}}",
            "model.tokenizer.vocab_size is 5; it must be greater than or equal to 384",
        ),
        ("name: x\nversion: 2.0", "version is 2.0; it must be text"),
        ("name: x\nversion: '2.0'", "version is '2.0'; it must be three numbers such as 1.0.0"),
        ("name: a b", "name is 'a b'; it may hold letters"),
        ("seed: 1", "r.yaml: the key 'name' is missing"),
        ("name: x\nseed: true", "seed is true; it must be a whole number"),
        ("name: x\nseed: '4'", "seed is '4'; it must be a number, not text: write it without quotes"),
        ("name: x\ndata: {max_length: 2048.5}", "data.max_length is 2048.5; it must be a whole number"),
        ("name: x\ndata: {eval_fraction: .nan}", "data.eval_fraction is nan"),
        ("name: x\ndata: 5", "data is 5; it must be a mapping"),
        ("name: x\nevaluate: {tool_calls: {}}", "the key 'evaluate.tool_calls.prompts' is missing"),
        ("name: x\nprofiles: [a]", "profiles must be a mapping"),
        ("name: x\nprofiles: {a: 5}", "profiles.a must be a mapping"),
        ("name: x\nprofiles: {a: {profiles: {}}}", "must not have 'profiles'"),
        ("extends: r.yaml", "'extends' goes in a circle: r.yaml -> r.yaml"),
        ("extends: q.yaml", "extends 'q.yaml', which is not a file beside it"),
    ],
)
def test_mistakes_are_refused(tmp_path: Path, text: str, says: str) -> None:
    import re

    assert re.search(says.replace("?", r"\?"), refusal(tmp_path, text))


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    assert len(refusal(tmp_path, "name: x\nsed: 1\ndata: {mixx: 1}\nversion: 1").splitlines()) == 3


def test_a_typo_in_a_profile_that_is_not_selected_is_refused(tmp_path: Path) -> None:
    text = "name: x\nprofiles:\n  a: {seed: 2}\n  b:\n    train: {args: {learning_rat: 3}}\n"
    assert "r.yaml, line 5: there is no key 'train.args.learning_rat'" in refusal(tmp_path, text)
    assert "r.yaml, line 5" in refusal(tmp_path, text, profile="a")


def test_a_typo_in_an_override_names_the_override(tmp_path: Path) -> None:
    text = refusal(tmp_path, "name: x", "train.args.learning_rat=3")
    assert (
        text.startswith("command line, train.args.learning_rat: ")
        and "did you mean 'train.args.learning_rate'?" in text
    )


def test_a_key_of_the_parent_file_is_found_there(tmp_path: Path) -> None:
    write(tmp_path, "name: x\n\ndata: {mixx: 1}", "b.yaml")
    assert refusal(tmp_path, "extends: b.yaml").startswith("b.yaml, line 3: ")


def test_keys_of_an_adapter_reach_only_stages_that_train_one() -> None:
    words = ("train.lora.r=16", "seed=7")
    stages = load_stages(load_recipe("aj", words, "tiny"), words, "tiny")
    assert {recipe.seed for _, recipe in stages} == {7}
    ranks = {stage.recipe: (recipe.train.lora or {}).get("r") for stage, recipe in stages if stage.verb == "train"}
    assert ranks == {"aj/tiny_base": None, None: 16}
    words_of = {stage.recipe: Options("tiny", words).words(stage) for stage, _ in stages}
    assert words_of == {"aj/tiny_base": ["--profile", "tiny", "seed=7"], None: ["--profile", "tiny", *words]}


def test_keys_of_an_adapter_that_no_stage_trains_are_refused(tmp_path: Path) -> None:
    words = ["train.lora.r=16"]
    stages = "{verb: prepare, recipe: aj/tiny_base}, {verb: train, recipe: aj/tiny_base}"
    text = f"name: x\nmodel: {{path: base}}\nstages: [{stages}]"
    recipe = load_recipe(write(tmp_path, text), words)
    with pytest.raises(UserError, match=r"no stage trains an adapter, so train\.lora\.r=16 is for none of them"):
        load_stages(recipe, words)


def test_longer_circles_are_shown(tmp_path: Path) -> None:
    write(tmp_path, "extends: r.yaml", "b.yaml")
    assert "circle: r.yaml -> b.yaml -> r.yaml" in refusal(tmp_path, "extends: b.yaml")


def test_unknown_names() -> None:
    with pytest.raises(UserError, match="there is no recipe 'ajj'; did you mean 'aj'"):
        load_recipe("ajj")
    with pytest.raises(UserError, match="aj/sft has no profile 'tinny'; did you mean 'tiny'"):
        load_recipe("aj/sft", profile="tinny")
    with pytest.raises(UserError, match="there is no recipe 'hardware/cpu'"):
        load_recipe("hardware/cpu")
    with pytest.raises(UserError, match=r"there is no recipe file nowhere\.yaml"):
        load_recipe("nowhere.yaml")


def test_eval_strategy_no_is_a_word(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "name: x\ntrain: {args: {eval_strategy: no, save_strategy: no}}"))
    assert recipe.train.args == {"eval_strategy": "no", "save_strategy": "no"}
