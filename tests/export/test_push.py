"""What would be published: the right files, a card with measured figures, no secrets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from agentforge.artifacts import stage_directory
from agentforge.errors import CheckRefused, UserError
from agentforge.evaluation.scores_file import SCORES
from agentforge.export.model_card import licence_warnings, model_card
from agentforge.export.push import push, report
from agentforge.recipe.schema import Recipe
from tests.export.export_models import make_adapter, make_recipe

SOURCES = {
    "ultrachat": {
        "dataset": "HuggingFaceH4/ultrachat_200k",
        "licence": "MIT",
        "train_rows": 45000,
        "train_tokens": 31_000_000,
    },
    "gardening": {"dataset": "HuggingFaceH4/stack-exchange-preferences", "licence": "CC-BY-SA-4.0", "train_rows": 900},
    "flax": {"dataset": "flax-sentence-embeddings/x", "licence": "CC-BY-NC-SA-4.0", "train_rows": 7},
    "skein": {"dataset": "ToastyPigeon/skein-text-adventures", "licence": None, "train_rows": 10},
    "unused": {"dataset": "a/b", "licence": "CC-BY-NC-4.0", "train_rows": 0},
}


def artifact(recipe: Recipe, suffix: str, metrics: dict[str, Any], **files: str) -> Path:
    with stage_directory(recipe.artifact(suffix), stage=suffix, recipe={}) as work:
        for name, text in files.items():
            (work.path / name.replace("__", ".")).write_text(text)
        work.metrics.update(metrics)
    return work.target


@pytest.fixture
def recipe(tmp_path: Path, base: Path) -> Recipe:
    """An adapter with everything that training leaves, its data and its scores."""
    recipe = make_recipe(tmp_path / "runs", base, license="apache-2.0")
    with stage_directory(recipe.trained, stage="train", recipe={}) as work:
        make_adapter(base, work.path)
        for name in ("optimizer.pt", "rng_state.pth", "training_args.bin", "scheduler.pt"):
            (work.path / name).write_bytes(b"x")
        (work.path / "checkpoint-10").mkdir()
        (work.path / "checkpoint-10" / "adapter_model.safetensors").write_bytes(b"x")
        work.metrics.update(steps=200, tokens=123456, loss=0.5)
    artifact(recipe, "data", {"sources": SOURCES})
    score = {"value": 0.75, "low": 0.7, "high": 0.79, "n": 96, "chance": 1 / 6}
    scores = {
        "model": {"label": "lora"},
        "scores": {"right_tool": score},
        "interval": {"kind": "Beta-Jeffreys", "confidence": 0.8},
        "questions": {"prompts": "heldout/*.jsonl"},
    }
    directory = artifact(recipe, "eval-lora", {})
    (directory / SCORES).write_text(json.dumps(scores))
    return recipe


def test_dry_run_leaves_out_what_is_only_for_resuming(recipe: Recipe) -> None:
    upload = push(recipe, "lora", dry_run=True)
    assert {"README.md", "adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "base.json"} <= set(
        upload.files
    )
    assert not [
        name for name in upload.files if "optimizer" in name or "checkpoint" in name or name.endswith((".pt", ".bin"))
    ]
    assert "manifest.json" not in upload.files
    assert upload.files["adapter_model.safetensors"] == (recipe.trained / "adapter_model.safetensors").stat().st_size
    assert not upload.sent
    console = Console(record=True, width=200)
    console.print(report(upload))
    shown = console.export_text()
    assert "adapter_model.safetensors" in shown
    assert "export.hub_repo is not set" in shown


def test_card(recipe: Recipe) -> None:
    card = model_card(recipe, "lora")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "apache-2.0"
    assert front["library_name"] == "peft"
    assert "HuggingFaceH4/ultrachat_200k" in front["datasets"]
    assert "a/b" not in front["datasets"]
    assert "base_model" not in front  # a local directory is no Hub id
    assert "| lora | right tool | 75.0% [70.0%, 79.0%] | 96 | 16.7% |" in card
    assert "| ultrachat | MIT | 45,000 | 31,000,000 |  |" in card
    assert "| tokens | 123,456 |" in card
    assert yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])["name"] == "Tiny"


def test_card_of_losses_environments_and_surgery(recipe: Recipe) -> None:
    share = {"value": 0.5, "low": 0.4, "high": 0.6}
    entry = {"headline": "success_rate", "success_rate": share, "n": 40, "chance": 0.1}
    loss = {"loss": {"value": 2.5, "low": 2.4, "high": 2.6}}
    scores = {
        "model": {"label": "grafted"},
        "environments": {"scores": {"affine:sat": entry}, "confidence": 0.8},
        "losses": {"widths": {"1/2": loss}, "data": {"tokens": 1234}, "confidence": 0.8},
    }
    (artifact(recipe, "eval-grafted", {}) / SCORES).write_text(json.dumps(scores))
    artifact(recipe, "grafted", {"proof": {"max_logit_difference": 0.0, "bound": 0.0}})
    card = model_card(recipe, "grafted")
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "transformers"
    assert "| grafted | affine:sat, success rate | 50.0% [40.0%, 60.0%] | 40 | 10.0% |" in card
    assert "| grafted | loss at width 1/2, nats a token | 2.500 [2.400, 2.600] | 1,234 |  |" in card
    assert "Made by surgery (grafted) of" in card and "logits differ by at most 0 in float32" in card
    assert "| lora | right tool | 75.0%" in card and "heldout/*.jsonl" in card, "those of tool calls stand beside them"


def test_base_on_the_hub_is_named(recipe: Recipe) -> None:
    model = recipe.model.model_copy(update={"path": "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B"})
    front = yaml.safe_load(model_card(recipe.model_copy(update={"model": model}), "q8").split("---\n")[1])
    assert front["base_model"] == "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B"
    assert front["base_model_relation"] == "quantized"
    assert front["library_name"] == "gguf"


def test_licences_that_bind(recipe: Recipe) -> None:
    warnings = "\n".join(licence_warnings(recipe))
    assert "gardening is CC-BY-SA-4.0: share-alike" in warnings
    assert "flax is CC-BY-NC-SA-4.0: the model may not be used commercially" in warnings
    assert "skein has no known licence" in warnings
    assert "ultrachat" not in warnings
    assert "unused" not in warnings


@pytest.mark.parametrize(
    "secret",
    ["hf_" + "a" * 34, "sk-" + "b1" * 20, "AKIA" + "A1B2" * 4, "-----BEGIN RSA PRIVATE KEY-----", "root@203.0.113.7"],
)
def test_secrets_are_found(recipe: Recipe, secret: str) -> None:
    (recipe.trained / "notes.txt").write_text(f"first line\nlogin: {secret}\n")
    with pytest.raises(CheckRefused, match=r"notes\.txt, line 2 has what looks like"):
        push(recipe, "lora", dry_run=True)


def test_secret_in_the_recipe_is_found(recipe: Recipe) -> None:
    leaky = recipe.model_copy(update={"description": "token hf_" + "a" * 34})
    with pytest.raises(CheckRefused, match=r"README\.md, line \d+ has what looks like a Hugging Face token"):
        push(leaky, "lora", dry_run=True)


def test_what_sending_needs(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(UserError, match=r"export\.hub_repo=ORG/NAME"):
        push(recipe, "lora")
    addressed = recipe.model_copy(update={"export": recipe.export.model_copy(update={"hub_repo": "me/tiny"})})
    with pytest.raises(UserError, match="HF_TOKEN"):
        push(addressed, "lora")
    with pytest.raises(UserError, match="push uploads only artefacts of this recipe"):
        push(addressed, "base", dry_run=True)


def test_a_hub_that_cannot_be_reached(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "x")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    addressed = recipe.model_copy(update={"export": recipe.export.model_copy(update={"hub_repo": "me/tiny"})})
    before = sorted(path.name for path in Path(recipe.output_dir).iterdir())
    with pytest.raises(UserError, match="the upload to me/tiny failed"):
        push(addressed, "lora")
    assert sorted(path.name for path in Path(recipe.output_dir).iterdir()) == before
