"""What the wheel holds: everything that shipped recipes name, so that they run in a folder that has nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from agentforge.installation import CHECKOUT, find_paths
from agentforge.recipe.yaml_files import read_yaml
from tests.end_to_end.conftest import environment

ROOT = CHECKOUT.parent
SYSTEMS = ("aj", "affine", "adamba", "cognate", "agiformer")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory that holds what installing the wheel would put into site-packages."""
    pytest.importorskip("hatchling")
    made = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(made)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = made.glob("*.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(made / "site-packages")
    return made / "site-packages"


def agentforge(installed: Path, directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a verb of the installed package in ``directory``, without this checkout on the path."""
    start = f"import sys; sys.path.insert(0, {str(installed)!r}); from agentforge.__main__ import main; main()"
    return subprocess.run(
        [sys.executable, "-P", "-c", start, *words], cwd=directory, env=environment(), capture_output=True, text=True
    )


def named_data(value: Any) -> Iterator[str]:
    """Yield every string of a recipe that is a path below data/."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from named_data(item)
    elif isinstance(value, str) and value.startswith("data/"):
        yield value


def test_every_file_that_a_recipe_names_is_in_it(installed: Path) -> None:
    recipes = [file for system in SYSTEMS for file in (ROOT / "configs" / system).glob("*.yaml")]
    named = {name for file in recipes for name in named_data(read_yaml(file))} | {"data/aj/example", "data/programs"}
    assert {"data/aj/train/*.jsonl", "data/aj/heldout/*.jsonl"} < named
    for pattern in named:
        files = {path.relative_to(CHECKOUT) for path in find_paths(CHECKOUT.parent / pattern)}
        assert files, pattern
        assert all((installed / "agentforge" / "shipped" / file).exists() for file in files), pattern
    shipped = {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")}
    assert all((installed / "agentforge" / "configs" / file).is_file() for file in shipped)


def test_files_beside_the_code_are_in_it(installed: Path) -> None:
    here = {path.relative_to(ROOT) for path in (ROOT / "agentforge").rglob("*") if path.is_file()}
    code = {path for path in here if "__pycache__" not in path.parts}
    assert {path for path in code if not (installed / path).is_file()} == set()


@pytest.mark.end_to_end
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_tiny_profile_starts_in_an_empty_folder(installed: Path, tmp_path: Path, system: str) -> None:
    said = agentforge(installed, tmp_path, "doctor", system, "--profile", "tiny")
    wrong = [line for line in said.stdout.splitlines() if "data/" in line and not line.lstrip().startswith("ok")]
    assert "make " not in said.stdout and not wrong, said.stdout
    assert "Traceback" not in said.stderr, said.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.end_to_end
def test_the_shipped_rows_are_read_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    words = ["preview", "aj/tiny_base", "--rows", "2", "data.mix=[{dataset: data/aj/train/*.jsonl}]"]
    said = agentforge(installed, tmp_path, *words)
    assert said.returncode == 0, said.stderr
    code = "from agentforge.evaluation.evaluate import question_files as f; from agentforge.recipe.schema import *; "
    code += "import json; print(json.dumps([str(p) for p in f(ToolCalls(prompts='data/aj/heldout/*.jsonl'))]))"
    asked = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(installed)!r}); {code}"],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    files = [Path(name) for name in json.loads(asked.stdout)]
    assert files and all(file.is_relative_to(installed / "agentforge" / "shipped") for file in files)
