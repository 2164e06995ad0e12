"""All the stages of a recipe, one behind the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentforge.errors import UserError
from agentforge.pipeline import run


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
