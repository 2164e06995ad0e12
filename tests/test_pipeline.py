"""All the stages of a recipe, one behind the other."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path

import pytest

from agentforge.errors import UserError
from agentforge.pipeline import STAGES, run
from agentforge.references import resolve


def test_options_that_cannot_work_are_refused_before_the_first_stage(tmp_path: Path) -> None:
    recipe = tmp_path / "some.yaml"
    recipe.write_text(
        "name: Some\nstages: [{verb: download}, {verb: collect}]\n"
        "environments: {affine:sat: {n_vars: [5, 8], unsat_share: 0.3}}\n"
    )
    begun: list[str] = []
    with pytest.raises(UserError, match="5 variables, 31 clauses and k = 5 none is unsatisfiable"):
        run(str(recipe), announce=lambda title, made: begun.append(title))
    assert begun == []


@pytest.mark.parametrize("verb", list(STAGES))
def test_every_stage_is_a_function_of_a_recipe(verb: str) -> None:
    parameters = list(inspect.signature(resolve(STAGES[verb])).parameters)
    assert parameters[0] == "recipe" and ("replace" in parameters or verb == "download")


def test_run_says_of_each_stage_why_it_is_skipped_or_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="agentforge.artifacts")
    (tmp_path / "rows.jsonl").write_text('{"text": "A document of some words."}\n' * 2 + '{"text": "Another one."}\n')
    recipe = tmp_path / "some.yaml"
    recipe.write_text(
        f"name: Some\noutput_dir: {tmp_path}\nstages: [{{verb: prepare}}]\ntrain: {{method: pretrain}}\n"
        "model: {tokenizer: {vocab_size: 384}, config: {model_type: qwen3}}\n"
        f"data: {{workers: 1, mix: [{{dataset: {tmp_path}/rows.jsonl}}]}}\n"
    )
    run(str(recipe))
    run(str(recipe))
    run(str(recipe), ["seed=7"], replace=True)
    data = tmp_path / "Some-v0.1.0-data"
    said = [record.getMessage() for record in caplog.records if record.name == "agentforge.artifacts"]
    assert said == [f"making {data}", f"{data} is up to date", f"making {data} again: seed: 42 -> 7"]
