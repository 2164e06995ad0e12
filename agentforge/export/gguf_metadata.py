"""What a GGUF says of itself: its name, version, licence, base and origin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentforge.recipe.schema import Recipe

HUB = "https://huggingface.co"
LICENSE = "general.license"


def gguf_metadata(recipe: Recipe) -> dict[str, Any]:
    """Return the `general` entries of a recipe's GGUF, as the converter's ``--metadata`` takes them.

    Only what the recipe says. Without it the converter guesses from the name of the directory that it reads.
    """
    entries: dict[str, Any] = {"general.name": recipe.name, "general.version": recipe.version}
    entries |= {
        "general.basename": recipe.name,
        "general.description": recipe.description,
        LICENSE: recipe.export.license,
    }
    if recipe.export.hub_repo:
        owner = recipe.export.hub_repo.split("/")[0]
        entries |= {"general.author": owner, "general.organization": owner}
        entries["general.repo_url"] = f"{HUB}/{recipe.export.hub_repo}"
    if recipe.model.path:
        entries["general.base_models"] = [_base(recipe.model.path, recipe.model.revision)]
    return {key: value for key, value in entries.items() if value}


def general_fields(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same entries under the names that they have in the file, where lists are numbered."""
    fields = {key: value for key, value in metadata.items() if key != "general.base_models"}
    bases = metadata.get("general.base_models", [])
    for number, base in enumerate(bases):
        fields |= {f"general.base_model.{number}.{key}": value for key, value in base.items()}
    return fields | ({"general.base_model.count": len(bases)} if bases else {})


def _base(path: str, revision: str | None) -> dict[str, str]:
    organization, _, name = path.rpartition("/")
    if Path(path).exists() or organization.count("/") or not organization:
        return {"name": Path(path).name}  # a directory of this machine is nobody else's business
    base = {"name": name, "organization": organization, "repo_url": f"{HUB}/{path}"}
    return base | ({"version": revision} if revision else {})
