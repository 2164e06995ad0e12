"""A model card made from what the stages measured; nothing in it is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from agentforge.artifacts import MANIFEST, read_manifest
from agentforge.models.locate_model import QUANTIZATIONS
from agentforge.models.usage import usage_of
from agentforge.recipe.schema import Recipe

RELATIONS = {"lora": "adapter", **dict.fromkeys(QUANTIZATIONS, "quantized")}  # the Hub's names; others: "finetune"
SHARE_ALIKE = ("-sa", "sharealike", "gpl", "odbl")
NON_COMMERCIAL = ("-nc", "non-commercial", "noncommercial")
UNKNOWN = ("", "none", "unknown", "other", "no licence", "no license")


def model_card(recipe: Recipe, label: str) -> str:
    """Return the README.md of one artefact.

    Args:
        recipe: what made it.
        label: ``lora``, ``merged``, ``model``, a quantisation, or what surgery made.
    """
    sections = [
        f"# {recipe.full_name}-{label}",
        recipe.description or f"Trained with agentforge ({recipe.train.method}); the figures are its manifests'.",
        _base(recipe, label),
        _use(recipe, label),
        _data(recipe),
        _training(recipe),
        _scores(recipe),
        _checks(recipe, label),
        _limits(recipe),
        f"## Recipe\n\n```yaml\n{_recipe_yaml(recipe)}```",
    ]
    return f"---\n{_front_matter(recipe, label)}---\n\n" + "\n\n".join(part for part in sections if part) + "\n"


def licence_warnings(recipe: Recipe) -> list[str]:
    """Return a line for each licence among the training data that binds or forbids a publication."""
    warnings = []
    for name, source in data_sources(recipe).items():
        licence = str(source.get("licence") or "").lower()
        if any(mark in licence for mark in NON_COMMERCIAL):
            warnings.append(f"{name} is {source['licence']}: the model may not be used commercially")
        if any(mark in licence for mark in SHARE_ALIKE):
            warnings.append(f"{name} is {source['licence']}: share-alike, attribution and the same licence may be owed")
        if licence in UNKNOWN:
            warnings.append(f"{name} has no known licence: whoever publishes answers for having the right to")
    if recipe.export.license is None:
        warnings.append("export.license is not set: the model card names no licence")
    return warnings


def data_sources(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Return name to figures of every source of the training data; empty if it was prepared elsewhere."""
    found: dict[str, dict[str, Any]] = _metrics(recipe.artifact("data")).get("sources", {})
    # A source that nothing was trained on imposes no licence.
    return {name: source for name, source in found.items() if source.get("train_rows", 1)}


def _metrics(directory: Path) -> dict[str, Any]:
    if not (directory / MANIFEST).is_file():
        return {}
    metrics: dict[str, Any] = read_manifest(directory).get("metrics", {})
    return metrics


def _front_matter(recipe: Recipe, label: str) -> str:
    library = "peft" if label == "lora" else "gguf" if label in QUANTIZATIONS else "transformers"
    datasets = sorted({str(s["dataset"]) for s in data_sources(recipe).values() if _is_hub_id(s.get("dataset"))})
    front: dict[str, Any] = {"library_name": library, "pipeline_tag": "text-generation"}
    front["tags"] = ["agentforge", recipe.train.method]
    if recipe.export.license:
        front["license"] = recipe.export.license
    if _is_hub_id(recipe.model.path):
        # The Hub links it; a directory of this machine would be a broken link.
        front["base_model"] = recipe.model.path
        front["base_model_relation"] = RELATIONS.get(label, "finetune")
    if datasets:
        front["datasets"] = datasets
    return yaml.safe_dump(front, sort_keys=False, allow_unicode=True)


def _is_hub_id(name: Any) -> bool:
    return isinstance(name, str) and name.count("/") == 1 and not Path(name).exists() and "*" not in name


def _base(recipe: Recipe, label: str) -> str:
    base = recipe.model.path or "none: all weights were made from the recipe's model.config"
    revision = f" at revision `{recipe.model.revision}`" if recipe.model.revision else ""
    what = {"lora": "LoRA adapter for", "merged": "LoRA merged into", "model": "All weights trained from"}
    what |= {name: f"{name} GGUF of the model trained from" for name in QUANTIZATIONS}
    return f"{what.get(label, f'Made by surgery ({label}) of')} `{base}`{revision}."


def _use(recipe: Recipe, label: str) -> str:
    """Say how the model is opened, where transformers alone does not know it."""
    adapter = label == "lora"
    config = Path(recipe.model.path or "") / "config.json" if adapter else recipe.artifact(label) / "config.json"
    if not config.is_file():
        return ""
    fields = json.loads(config.read_text(encoding="utf-8"))
    text = usage_of(fields, recipe.export.hub_repo or recipe.full_name, adapter=adapter)
    return f"## Use\n\n{text}" if text else ""


def _data(recipe: Recipe) -> str:
    sources = data_sources(recipe)
    if not sources:
        return ""
    figures = ("train_rows", "train_tokens", "epochs")
    rows = [(name, s.get("licence") or "none given", *map(s.get, figures)) for name, s in sources.items()]
    table = _table(("source", "licence", "rows", "tokens", "epochs"), rows)
    warnings = "\n".join(f"- {warning}" for warning in licence_warnings(recipe))
    return f"## Data\n\n{table}" + (f"\n\nLicences to mind:\n\n{warnings}" if warnings else "")


def _training(recipe: Recipe) -> str:
    figures = {name: value for name, value in _metrics(recipe.trained).items() if isinstance(value, int | float)}
    if not figures:
        return ""
    return f"## Training\n\n{_table(('figure', 'value'), figures.items())}"


def _scores(recipe: Recipe) -> str:
    rows, notes = [], []
    for path in sorted(recipe.trained.parent.glob(f"{recipe.full_name}-eval-*/scores.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        label = report["model"]["label"]
        for name, score, chance in _shares(report):
            value = f"{score['value']:.1%} [{score['low']:.1%}, {score['high']:.1%}]"
            rows.append((label, name, value, score["n"], "" if chance is None else f"{chance:.1%}"))
        losses = report.get("losses", {"widths": {}})
        for width, entry in losses["widths"].items():
            loss = entry["loss"]
            value = f"{loss['value']:.3f} [{loss['low']:.3f}, {loss['high']:.3f}]"
            rows.append((label, f"loss at width {width}, nats a token", value, losses["data"]["tokens"], ""))
        notes += _notes(report)
    if not rows:
        return "## Evaluation\n\nNot evaluated."
    table = _table(("model", "score", "value", "n", "chance"), rows)
    return f"## Evaluation\n\n{table}\n\n{' '.join(dict.fromkeys(notes))}"


def _shares(report: dict[str, Any]) -> list[tuple[str, dict[str, Any], float | None]]:
    """Return each score that is a share: its name, itself, chance."""
    found = [(name.replace("_", " "), score, score.get("chance")) for name, score in report.get("scores", {}).items()]
    for name, entry in report.get("environments", {}).get("scores", {}).items():
        headline = entry["headline"]
        found.append((f"{name}, {headline.replace('_', ' ')}", {**entry[headline], "n": entry["n"]}, entry["chance"]))
    return found


def _notes(report: dict[str, Any]) -> list[str]:
    notes = []
    if "questions" in report:
        kind, confidence = report["interval"]["kind"], report["interval"]["confidence"]
        notes.append(f"{kind} intervals of {confidence:.0%}; held-out prompts: `{report['questions']['prompts']}`.")
    if "environments" in report:
        notes.append(f"Environments: reserved tasks, {report['environments']['confidence']:.0%} intervals.")
    if "losses" in report:
        notes.append(f"Losses: held-out rows, {report['losses']['confidence']:.0%} intervals over rows.")
    return notes


def _checks(recipe: Recipe, label: str) -> str:
    lines = []
    if merged := _metrics(recipe.artifact("merged")):
        lines.append(
            f"- merged against base + adapter: logits differ by at most {merged['max_logit_difference']:.2g} before "
            f"rounding; as published KL {merged['published']['kl']:.2g} nats a token"
        )
    own = _metrics(recipe.artifact(label))
    if proof := own.get("proof"):
        lines.append(
            f"- {label} against its base: logits differ by at most {proof['max_logit_difference']:.2g} in float32 "
            f"(bound {proof['bound']:.2g})"
        )
    if label in QUANTIZATIONS and (quantized := own):
        lines.append(
            f"- {label} against the checkpoint on {quantized['tokens']} tokens: KL {quantized['kl']:.2g} nats a token, "
            f"same likeliest token {quantized['top1']:.1%}"
        )
    return "## Checks\n\n" + "\n".join(lines) if lines else ""


def _limits(recipe: Recipe) -> str:
    lines = [f"- Trained on rows of at most {recipe.data.max_length} tokens."]
    if recipe.data.tools:
        lines.append(
            "- It writes tool calls as `<tool_call>{...}</tool_call>`; run what it asks for in a sandbox only."
        )
    lines.append("- The scores hold for the prompts they were measured on; on others it may be better or worse.")
    return "## Limits\n\n" + "\n".join(lines)


def _recipe_yaml(recipe: Recipe) -> str:
    # What others need to make it again, without this machine's directories.
    shown = recipe.model_dump(exclude_defaults=True, exclude={"output_dir", "stages"})
    return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)


def _table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    lines = [list(header), *([_cell(value) for value in row] for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value).replace("|", "\\|")
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
