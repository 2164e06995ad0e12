"""A set of models beside models that differ by seed alone, from the recipe to the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agentforge.artifacts import read_manifest
from agentforge.errors import CheckRefused, UserError
from agentforge.evaluation.compare.side_by_side import tables
from agentforge.evaluation.diversity import evaluate_diversity as stage
from agentforge.evaluation.evaluate import evaluate
from agentforge.evaluation.report.page_diversity import diversity_groups
from agentforge.recipe.schema import Recipe
from tests.evaluation.diversity.test_measure import llama
from tests.trainers.tiny import make_rows, tiny_tokenizer, write_prepared


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    for seed in range(3):
        llama(seed).save_pretrained(place / str(seed))
    return place


def recipe_on(tmp_path: Path, place: Path, control: tuple[int, ...], **fields: Any) -> Recipe:
    asked = {
        "models": {name: str(place / name) for name in "012"},
        "control": {f"seed {index}": str(place / str(number)) for index, number in enumerate(control)},
        "rows": 6,
        **fields,
    }
    recipe = Recipe.model_validate({"name": "D", "output_dir": str(tmp_path), "evaluate": {"diversity": asked}})
    if not recipe.artifact("data").is_dir():
        write_prepared(recipe.artifact("data"), make_rows(2, 0), make_rows(8, seed=3))
    return recipe


def findings_of(made: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((made / "scores.json").read_text())["diversity"]["findings"]
    return found


def test_three_models_differ_more_than_three_copies(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "PROMPTS", 2)
    recipe = recipe_on(tmp_path, models, control=(0, 0, 0))
    made = evaluate(recipe)
    assert made == recipe.artifact("eval-diversity")
    found = findings_of(made)
    assert found["js"]["verdict"] == found["disagreement"]["verdict"] == "differ more than seeds do"
    assert found["js"]["control"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert found["latency_ratio"]["models"]["value"] >= 1
    metrics = read_manifest(made)["metrics"]
    assert metrics["diversity/js"] == found["js"]["models"]["value"] > 0.1
    assert {"diversity/disagreement", "diversity/latency_ratio"} <= set(metrics)
    (group,) = diversity_groups([made])
    assert [len(table["rows"]) for table in group["tables"]] == [len(found), 6, 6]
    assert "differ more than seeds do" in str(group["tables"][0])
    (shown,) = tables([made])
    assert "js, chance 0" in list(shown.columns[0].cells)
    before = (made / "scores.json").stat().st_mtime_ns
    assert evaluate(recipe) == made and (made / "scores.json").stat().st_mtime_ns == before


def test_the_same_set_twice_makes_no_difference(tmp_path: Path, models: Path) -> None:
    found = findings_of(evaluate(recipe_on(tmp_path, models, control=(0, 1, 2), speed=False)))
    assert {one["verdict"] for one in found.values()} == {"no difference"}
    assert "latency_ratio" not in found


def test_without_a_control_there_is_no_verdict(tmp_path: Path, models: Path) -> None:
    made = evaluate(recipe_on(tmp_path, models, control=(), speed=False))
    assert all(one["verdict"] is None for one in findings_of(made).values())
    (group,) = diversity_groups([made])
    assert group["tiles"] == []


def test_what_cannot_be_compared_is_refused(tmp_path: Path, models: Path) -> None:
    recipe = recipe_on(tmp_path, models, control=())
    with pytest.raises(UserError, match="leave out --model"):
        evaluate(recipe, "base")
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match="is a GGUF"):
        evaluate(recipe_on(tmp_path, models, (), models={"a": str(models / "0"), "b": str(tmp_path / "m.gguf")}))
    with pytest.raises(ValidationError, match="name at least two models; there is one"):
        recipe_on(tmp_path, models, (), models={"a": str(models / "0")})
    other = tiny_tokenizer()
    other.add_tokens(["new"])
    llama(0).save_pretrained(tmp_path / "foreign")
    other.save_pretrained(tmp_path / "foreign")
    with pytest.raises(CheckRefused, match="another tokenizer"):
        evaluate(recipe_on(tmp_path, models, (), models={"a": str(models / "0"), "b": str(tmp_path / "foreign")}))
