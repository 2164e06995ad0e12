"""`agentforge run adamba` on the shipped recipes, all stages of the tiny profile, with sizes that take a minute."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from agentforge.artifacts import MANIFEST, read_manifest
from agentforge.errors import CheckRefused
from agentforge.models.surgery import surgery
from agentforge.recipe.loading import find_recipe, load_recipe, merge, read_extended, recipe_names
from agentforge.recipe.schema import Recipe
from agentforge.systems.adamba.modeling.configuration import AdambaConfig
from agentforge.systems.adamba.modeling.shape import index_of, take
from agentforge.trainers.train import train
from tests.end_to_end.conftest import REPOSITORY, agentforge

pytestmark = pytest.mark.end_to_end

RUNS = Path("runs/adamba")
TEXT = {"mix": [{"dataset": "data/aj/train/files.jsonl", "max_rows": 80}], "max_length": 64, "overflow": "truncate"}
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16}


def shrunk(recipe: dict[str, Any]) -> dict[str, Any]:
    """The same recipe with a smaller model, fewer rows and steps."""
    config, training = recipe["model"].get("config"), recipe.get("train", {})
    if config:
        share = config["hidden_size"] // 32
        config |= {key: value * share // 4 if "size" in key else value for key, value in SIZES.items()}
        config |= {"mamba_d_ssm": 16 * share, "mamba_d_head": 16} if "mamba_d_ssm" in config else {}
    if isinstance(recipe["model"]["tokenizer"], dict):
        recipe["model"]["tokenizer"] = {"vocab_size": 512, "max_characters": 100_000}
    if training.get("exits"):
        training["exits"] |= {"layers": [1]}
    if training:
        training["args"] |= {"max_steps": 2, "save_steps": 2, "logging_steps": 1}
    if training.get("method") == "grpo":
        training["args"] |= {"per_device_train_batch_size": 4, "num_generations": 4}
        training["collapse"] = None  # it can play nothing
    if recipe.get("surgery", {}).get("rows") or recipe.get("surgery", {}).get("operation") == "drop_attention":
        recipe["surgery"]["rows"] = 8
    data = recipe["data"] | {"workers": 1, "eval_fraction": 0.3}
    recipe["data"] = data | (TEXT if training.get("method") == "pretrain" or "surgery" in recipe else {})
    recipe["collect"] = recipe.get("collect", {}) | {"episodes": 24}
    recipe["rollouts"] = recipe.get("rollouts", {}) | {"max_new_tokens": 4}
    if recipe["evaluate"].get("loss"):
        recipe["evaluate"]["loss"] |= {"rows": 6, "speed": False}
    if recipe["evaluate"].get("environments"):
        recipe["evaluate"]["environments"] = {"tasks": 2}
    return recipe


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which the shrunken chain has run from start to end."""
    directory = tmp_path_factory.mktemp("adamba")
    (directory / "data").symlink_to(REPOSITORY / "data")
    (directory / "configs/adamba").mkdir(parents=True)
    for name in [name for name in recipe_names() if name.split("/")[0] == "adamba"]:
        path = find_recipe(name)
        raw = read_extended(path)
        recipe = merge(raw, raw.pop("profiles")["tiny"])
        (directory / "configs/adamba" / path.name).write_text(yaml.safe_dump(shrunk(recipe)))
    agentforge(directory, "run", "adamba")
    return directory


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def artefact(project: Path, name: str) -> Path:
    return project / RUNS / f"Adamba-Tiny-{name}"


def test_every_stage_has_made_what_it_makes(project: Path) -> None:
    made = {path.parent.name for path in (project / RUNS).glob(f"*/{MANIFEST}")}
    for name in (
        "Phase1-v1.0.0-attention-dropped",
        "Phase2-v1.0.0-ordered",
        "Phase6-DPO-v1.0.0-model",
        "v1.0.0-report",
    ):
        assert f"Adamba-Tiny-{name}" in made
    assert len([name for name in made if name.endswith("-model") and "eval" not in name]) == 11
    page = next(artefact(project, "v1.0.0-report").glob("*.html")).read_text(encoding="utf-8")
    for name in ("Phase1", "Phase2", "Phase3", "Phase4", "Phase5", "Alone-Half"):
        assert f"Adamba-Tiny-{name}" in page


def test_every_operation_has_its_proof(project: Path) -> None:
    for name, exact in (("Phase1-v1.0.0-grafted", True), ("Phase3-v1.0.0-expanded", False)):
        proof = read_manifest(artefact(project, name))["metrics"]["proof"]
        assert proof["max_logit_difference"] <= (0 if exact else 1e-5 * max(1, proof["largest_logit"]))
    assert read_manifest(artefact(project, "Phase1-v1.0.0-attention-dropped"))["metrics"]["cost"]["after"] > 0


def test_phase_1_moves_the_mixers_and_nothing_else(project: Path) -> None:
    before = weights(artefact(project, "Phase1-v1.0.0-grafted"))
    after = weights(artefact(project, "Phase1-v1.0.0-model"))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(".mamba." in name for name in moved)


def test_old_entries_keep_their_bits_only_where_they_are_to(project: Path) -> None:
    old = AdambaConfig.from_pretrained(artefact(project, "Phase2-v1.0.0-model"))
    new = AdambaConfig.from_pretrained(artefact(project, "Phase3-v1.0.0-expanded"))
    phase2 = weights(artefact(project, "Phase2-v1.0.0-model"))

    def kept(name: str) -> list[bool]:
        after = weights(artefact(project, name))
        return [torch.equal(take(after[key], index_of(key, old, new)), value) for key, value in phase2.items()]

    assert all(kept("Phase3-v1.0.0-expanded")) and all(kept("Phase3-Only-v1.0.0-model"))
    assert not any(kept("Phase3-v1.0.0-model"))


def test_losses_are_there_for_each_width_and_exit(project: Path) -> None:
    def scores(name: str) -> dict[str, Any]:
        found = json.loads((artefact(project, name) / "scores.json").read_text(encoding="utf-8"))
        losses: dict[str, Any] = found["losses"]
        return losses

    assert set(scores("Phase2-v1.0.0-eval-model")["widths"]) == {"1", "1/2", "1/4"}
    assert set(scores("Phase3-v1.0.0-eval-model")["widths"]) == {"1", "4/5", "2/5", "1/5"}
    assert "1" in scores("Phase2-v1.0.0-eval-model")["exits"]
    half = scores("Phase2-v1.0.0-eval-model")["widths"]["1/2"]["parameters"]
    assert scores("Alone-Half-v1.0.0-eval-model")["widths"]["1"]["parameters"] == half


def test_run_again_does_nothing_again(project: Path) -> None:
    def finished() -> dict[str, str]:
        made = [path.parent for path in (project / RUNS).glob(f"*/{MANIFEST}") if "report" not in path.parent.name]
        return {path.name: read_manifest(path)["finished"] for path in made}

    before = finished()
    agentforge(project, "run", "adamba")
    assert finished() == before


@pytest.mark.parametrize(
    ("verb", "recipe", "base", "says"),
    [
        (train, "adamba/phase2", "Phase1-v1.0.0-model", "this recipe needs graft, pretrain, order"),
        (train, "adamba/phase4b", "Phase3-v1.0.0-expanded", "this recipe needs expand, pretrain, expand"),
        (surgery, "adamba/phase1_drop", "Phase1-v1.0.0-grafted", "this recipe needs graft, pretrain"),
    ],
)
def test_a_phase_refuses_the_checkpoint_of_another(
    project: Path, monkeypatch: pytest.MonkeyPatch, verb: Callable[[Recipe], Path], recipe: str, base: str, says: str
) -> None:
    monkeypatch.chdir(project)
    other = load_recipe(recipe, [f"model.path={RUNS}/Adamba-Tiny-{base}", "name=Other"])
    with pytest.raises(CheckRefused, match=says):
        verb(other)
    assert not list(RUNS.glob("Other*"))
