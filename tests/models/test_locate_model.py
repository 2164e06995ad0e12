"""Which model a name means, and what is said when it is not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentforge.errors import UserError
from agentforge.models.locate_model import ModelLocation, locate_model, locate_path
from agentforge.recipe.schema import Recipe
from tests.manifests import write_manifest

SURGICAL = ("grafted", "expanded", "ordered", "attention-dropped", "width-1of2", "depth-4")
LORA = {"train": {"lora": {"r": 4}}}


def recipe_in(root: Path, **changes: Any) -> Recipe:
    base = root / "base"
    base.mkdir(exist_ok=True)
    (base / "config.json").write_text("{}")
    raw = {"name": "T", "output_dir": str(root / "runs"), "model": {"path": str(base)}}
    return Recipe.model_validate(raw | changes)


def make(recipe: Recipe, suffix: str, finished: str = "2026-01-01T00:00:00Z") -> Path:
    """A finished artefact with the files by which its kind is known."""
    directory = recipe.artifact(suffix)
    directory.mkdir(parents=True)
    if suffix == "lora":
        (directory / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/trained-on"}))
    elif suffix in ("model", "merged", *SURGICAL):
        (directory / "config.json").write_text("{}")
    else:
        (directory / f"T-{suffix}.gguf").write_bytes(b"GGUF")
    write_manifest(directory, finished=finished)
    return directory


def test_every_name_has_its_kind(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, **LORA)
    made = {name: make(recipe, name) for name in ("lora", "merged", "q8", "q4km")}
    assert locate_model(recipe, "merged") == ModelLocation("hf", str(made["merged"]), "merged")
    assert locate_model(recipe, "q4km") == ModelLocation("gguf", str(made["q4km"] / "T-q4km.gguf"), "q4km")
    lora = locate_model(recipe, "lora")
    assert (lora.kind, lora.path) == ("adapter", str(made["lora"]))
    assert lora.base == str(tmp_path / "base"), (
        "the recipe's base counts: paths in the adapter may be of another machine"
    )
    assert locate_model(recipe, "base").template == "auto", "the base reads the prompts that the trained model reads"


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ({"lora": 1}, "lora"),
        ({"lora": 1, "q4km": 2}, "lora"),
        ({"lora": 1, "merged": 2, "q8": 3, "q4km": 3}, "merged"),
        ({"lora": 4, "merged": 2, "q8": 3}, "lora"),
        ({"merged": 2, "q8": 3}, "merged"),
        ({"q8": 3, "q4km": 3}, "q8"),
    ],
)
def test_without_a_name_the_most_faithful_that_is_not_outdated(
    tmp_path: Path, made: dict[str, int], expected: str
) -> None:
    recipe = recipe_in(tmp_path, **LORA)
    for name, day in made.items():
        make(recipe, name, f"2026-01-0{day}T00:00:00Z")
    assert locate_model(recipe).label == expected


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("merged", "agentforge merge"),
        ("lora", "agentforge train"),
        ("q8", "agentforge gguf"),
        ("f16", r"add 'f16' to export\.gguf"),
        ("model", "say --model lora"),
        (None, "no model of T-v0.1.0"),
        ("merge", "did you mean 'merged'"),
        ("some/where", "there is no model 'some/where'"),
    ],
)
def test_what_is_missing_names_the_command_that_makes_it(tmp_path: Path, which: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        locate_model(recipe_in(tmp_path, **LORA), which)


def test_an_unfinished_artefact_is_no_model(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, **LORA)
    (make(recipe, "merged") / "manifest.json").unlink()
    with pytest.raises(UserError, match="is not there"):
        locate_model(recipe, "merged")


def test_bases(tmp_path: Path) -> None:
    hub = recipe_in(tmp_path, model={"path": "org/name", "revision": "abc", "trust_remote_code": True})
    expected = ModelLocation("hf", "org/name", "base", revision="abc", template="auto", trust_remote_code=True)
    assert locate_model(hub, "base") == expected
    with pytest.raises(UserError, match=r"model\.path is not set"):
        locate_model(recipe_in(tmp_path, model={"config": {"model_type": "qwen3"}}), "base")
    with pytest.raises(UserError, match="does not exist"):
        locate_model(recipe_in(tmp_path, model={"path": "runs/aj/Tiny-model"}), "base")


def test_paths(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, **LORA)
    file = make(recipe, "q8") / "T-q8.gguf"
    assert locate_path(str(file)) == ModelLocation("gguf", str(file), "T-q8")
    adapter = locate_path(str(make(recipe, "lora")))
    assert (adapter.kind, adapter.base, adapter.label) == ("adapter", "org/trained-on", "T-v0.1.0-lora")
    (file.parent / "second.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"2 \.gguf files; name one"):
        locate_path(str(file.parent))
    with pytest.raises(UserError, match="is no model: it holds neither"):
        locate_path(str(tmp_path))
    with pytest.raises(UserError, match=r"no \.gguf"):
        locate_path(str(tmp_path / "base" / "config.json"))


@pytest.mark.parametrize(
    ("surgery", "name"),
    [
        ({"operation": "graft"}, "grafted"),
        ({"operation": "expand", "width": "5/4"}, "expanded"),
        ({"operation": "order"}, "ordered"),
        ({"operation": "drop_attention", "layers": 1}, "attention-dropped"),
        ({"operation": "slice", "width": "1/2"}, "width-1of2"),
        ({"operation": "truncate", "layers": 4}, "depth-4"),
    ],
)
def test_what_surgery_made_has_the_name_of_its_artefact(tmp_path: Path, surgery: dict[str, Any], name: str) -> None:
    recipe = recipe_in(tmp_path, surgery=surgery)
    with pytest.raises(UserError, match="run `agentforge surgery` on this recipe first"):
        locate_model(recipe, name)
    other = next(one for one in SURGICAL if one != name)
    with pytest.raises(UserError, match=f"makes '{name}', not '{other}'; say --model {name}"):
        locate_model(recipe, other)
    with pytest.raises(UserError, match=r"T-v0\.1\.0 has no surgery"):
        locate_model(recipe_in(tmp_path), name)
    made = make(recipe, name)
    assert locate_model(recipe, name) == ModelLocation("hf", str(made), name)
    assert locate_model(recipe).label == name, "nothing is trained: it is the newest there is"
    make(recipe, "model")
    assert locate_model(recipe).label == "model"
