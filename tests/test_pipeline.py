"""All the stages of a recipe, one behind the other."""

from __future__ import annotations

import inspect
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
