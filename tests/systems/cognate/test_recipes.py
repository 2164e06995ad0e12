"""The shipped recipes: each loads under each profile, names what another makes, and trains no benchmark's rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentforge.data.sources.dataset_cards import load_card
from agentforge.data.sources.evaluation_parts import refuse_evaluation_part
from agentforge.errors import UserError
from agentforge.recipe.loading import load_recipe, load_stages, recipe_names
from agentforge.recipe.schema import Recipe
from agentforge.systems.cognate.modeling.configuration import CognateConfig, parameter_count

NAMES = [name for name in recipe_names() if name.split("/")[0] == "cognate"]
PROFILES = [None, "gtx1660", "1xh200", "tiny"]
FOURTEEN = {
    "gsm8k", "svamp", "asdiv", "mbpp", "codexglue", "arc_easy", "arc_challenge", "hellaswag", "piqa", "boolq",
    "hotpotqa", "drop", "strategyqa", "wikitext",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_loads_under_every_profile(name: str) -> None:
    for profile in PROFILES:
        recipe = load_recipe(name, profile=profile)
        assert ("Tiny" in recipe.name) is (profile == "tiny") or name in ("cognate/base", "cognate/branch")


@pytest.mark.parametrize("profile", PROFILES)
def test_every_stage_reads_what_an_earlier_stage_makes(profile: str | None) -> None:
    made: set[Path] = set()
    for stage, recipe in load_stages(load_recipe("cognate", profile=profile), profile=profile):
        if stage.verb == "prepare":
            made.add(recipe.artifact("data"))
        if stage.verb == "surgery":
            assert Path(str(recipe.model.path)) in made
            made.add(recipe.operated)
        if stage.verb == "train":
            assert recipe.artifact("data") in made
            assert recipe.model.path is None or Path(recipe.model.path) in made
            made.add(recipe.trained)
        if recipe.evaluate.diversity is not None and stage.verb == "evaluate":
            compared = {**recipe.evaluate.diversity.models, **recipe.evaluate.diversity.control}
            assert set(map(Path, compared.values())) <= made and len(compared) == 6


def test_the_trunk_is_the_specified_size_and_follows_the_specified_stages() -> None:
    recipe = load_recipe("cognate/trunk")
    config = {key: value for key, value in recipe.model.config.items() if key != "model_type"}
    assert parameter_count(CognateConfig(**config)) == 25_193_777
    assert {source.dataset for source in recipe.data.mix} == FOURTEEN
    foundation, reasoning, advanced = recipe.data.curriculum
    assert set(foundation.sources) == {"gsm8k", "svamp", "mbpp", "arc_easy", "piqa", "wikitext"}
    added = {"asdiv", "arc_challenge", "boolq", "strategyqa"}
    assert set(reasoning.sources) - set(foundation.sources) == added
    assert not advanced.sources and (foundation.until, reasoning.until, advanced.until) == (3, 6, None)
    assert recipe.train.args["num_train_epochs"] == 10


def test_no_benchmarks_rows_are_trained_on_and_all_are_kept_out() -> None:
    recipe = load_recipe("cognate/trunk")
    for source in recipe.data.mix:
        if load_card(source.dataset).enabled:
            refuse_evaluation_part(source, recipe.data)
    against = {entry.split(":")[0] for entry in recipe.data.decontaminate.against}
    assert against >= {id for id in FOURTEEN if load_card(id).enabled} - {"codexglue"}


def test_without_permission_two_sets_stay_out() -> None:
    off = {id for id in FOURTEEN if not load_card(id).enabled}
    assert off == {"asdiv", "piqa"}
    assert all(source.enabled is None for source in load_recipe("cognate/trunk").data.mix)


def test_the_control_differs_by_seed_alone() -> None:
    def but_seed(recipe: Recipe) -> dict[str, object]:
        return recipe.model_dump(exclude={"seed", "name", "description"})

    one, two, three = (load_recipe(f"cognate/control_{number}") for number in (1, 2, 3))
    assert but_seed(one) == but_seed(two) == but_seed(three)
    assert len({one.seed, two.seed, three.seed}) == 3
    branch = load_recipe("cognate/reasoning")
    assert branch.train == one.train and branch.data == one.data and branch.seed == one.seed


def test_a_misspelt_source_of_a_stage_is_refused_with_the_nearest() -> None:
    stages = "[{name: foundation, sources: [gsm8k, hellaswagg]}]"
    with pytest.raises(UserError, match=r"no source 'hellaswagg'; did you mean 'hellaswag'"):
        load_recipe("cognate/trunk", [f"data.curriculum={stages}"])
