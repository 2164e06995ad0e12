"""What a recipe's stages are to make is looked for where they make it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentforge.artifacts import MANIFEST
from agentforge.evaluation.pipeline_artifacts import PipelineArtifacts
from agentforge.models.locate_model import locate_path
from agentforge.recipe.schema import Recipe, Stage


@pytest.mark.parametrize("name", ["mine-q8.gguf", "modèle", "a model (2)"])
def test_an_evaluation_of_a_path_is_found_under_the_label_that_evaluate_gives_it(name: str, tmp_path: Path) -> None:
    model = tmp_path / name
    if model.suffix == ".gguf":
        model.write_bytes(b"GGUF")
    else:
        model.mkdir()
        (model / "config.json").write_text("{}")
    recipe = Recipe(name="X", output_dir=str(tmp_path / "runs"))
    system = PipelineArtifacts(recipe, [(Stage(verb="evaluate", model=str(model)), recipe)])
    assert len(system.missing) == 1
    made = recipe.artifact(f"eval-{locate_path(str(model)).label}")
    made.mkdir(parents=True)
    (made / MANIFEST).write_text("{}")
    assert system.missing == []
