"""The stages of a recipe that lists none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentforge.errors import UserError
from agentforge.pipeline import run
from agentforge.recipe.schema import Recipe
from agentforge.recipe.stages import stages_of


def usual(**sections: Any) -> list[str]:
    recipe = Recipe.model_validate({"name": "Some", **sections})
    return [" ".join(word for word in (stage.verb, stage.model) if word) for stage in stages_of(recipe)]


def test_what_a_method_needs(tmp_path: Path) -> None:
    file = str(tmp_path / "rows.jsonl")
    Path(file).touch()
    model, data = {"path": str(tmp_path)}, {"mix": [{"dataset": file}]}
    lora: dict[str, Any] = {"method": "sft", "lora": {}}
    evaluate: dict[str, Any] = {"loss": {}}
    assert usual(model=model, data=data, train=lora, evaluate=evaluate) == [
        "prepare", "evaluate base", "train", "merge", "evaluate merged",
    ]  # fmt: skip
    assert usual(model=model, data=data) == ["prepare", "train"]
    assert usual(model={"path": "org/name"}, data=data) == ["download", "prepare", "train"]
    assert usual(model=model, data={"mix": [{"dataset": "wildchat"}]}) == ["download", "prepare", "train"]
    assert usual(data=data, train={"method": "pretrain"}, evaluate=evaluate) == ["prepare", "train", "evaluate model"]
    assert usual(model=model, train={"method": "dpo"}) == ["collect", "train"]
    assert usual(model=model, train={"method": "kto", "preferences": [{"dataset": file}]}) == ["train"]
    played = {"environments": {"tasks": 5}}
    assert usual(model=model, train={"method": "grpo"}, evaluate=played) == [
        "evaluate base", "train", "evaluate model",
    ]  # fmt: skip


def test_listed_stages_go_first_and_surgery_has_no_usual_ones(tmp_path: Path) -> None:
    assert usual(stages=[{"verb": "merge"}]) == ["merge"]
    assert usual(surgery={"operation": "order"}) == []
    (tmp_path / "cut.yaml").write_text("name: Cut\nsurgery: {operation: order}\n", encoding="utf-8")
    with pytest.raises(UserError, match="has `surgery` and declares no stages; add `stages:` to it"):
        run(str(tmp_path / "cut.yaml"))
