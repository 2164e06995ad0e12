"""What gathering weights asks of DeepSpeed, held against its own source: installed, or where DEEPSPEED_SOURCE says.

Without it the test is skipped; it last passed with 0.19.8. Where DeepSpeed is installed, `test_sharded` runs it.
"""

from __future__ import annotations

import ast
import importlib.util
import os
from pathlib import Path

import pytest

PARAMETERS = "runtime/zero/partition_parameters.py"
# A file, and text that stands in it.
WRITTEN = [
    ("runtime/zero/__init__.py", "from .partition_parameters import GatheredParameters"),
    (PARAMETERS, "param.ds_id = Init.param_id"),
    (PARAMETERS, "param.ds_shape = param.shape"),
    (PARAMETERS, "param.ds_numel = param.numel()"),
    # All processes gather in one order, and what nobody has changed is given back without being sent round again.
    (PARAMETERS, "set(self.params), key=lambda x: x.ds_id"),
    (PARAMETERS, "self._partition_params(self._params_to_partition(), has_been_updated=False)\n            return"),
    (PARAMETERS, "if free_data:\n                    free_param(param)"),
]


@pytest.fixture(scope="module")
def source() -> Path:
    if (given := os.environ.get("DEEPSPEED_SOURCE")) is not None:
        return Path(given)
    spec = importlib.util.find_spec("deepspeed")
    if spec is None or spec.origin is None:
        pytest.skip("DeepSpeed's source is not here; set DEEPSPEED_SOURCE to an unpacked sdist's `deepspeed`")
    return Path(spec.origin).parent


def test_weights_are_gathered_to_be_read(source: Path) -> None:
    """`modifier_rank` must be None unless it is given: with a rank, DeepSpeed sends its weights to all at the end."""
    (gathered,) = (
        node
        for node in ast.parse((source / PARAMETERS).read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == "GatheredParameters"
    )
    (init,) = (part for part in gathered.body if isinstance(part, ast.FunctionDef) and part.name == "__init__")
    assert [argument.arg for argument in init.args.args[:3]] == ["self", "params", "modifier_rank"]
    default = init.args.defaults[0]
    assert isinstance(default, ast.Constant) and default.value is None


@pytest.mark.parametrize(("file", "text"), WRITTEN, ids=[text.split("\n")[0] for _, text in WRITTEN])
def test_deepspeed_still_does_what_is_relied_upon(source: Path, file: str, text: str) -> None:
    assert text in (source / file).read_text(encoding="utf-8")
