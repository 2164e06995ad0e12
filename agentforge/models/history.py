"""What a checkpoint has been through, according to the manifests of the artefacts it was made from."""

from __future__ import annotations

from pathlib import Path

from agentforge.artifacts import MANIFEST, read_manifest
from agentforge.errors import CheckRefused
from agentforge.manifest import input_path
from agentforge.recipe.schema import Model


def history(path: Path) -> list[str]:
    """Return the operations of surgery and methods of training that made a checkpoint, in order.

    It goes back as far as there are artefacts: one that came from the Hub has none behind it.
    One that was moved is found where its neighbours are.
    """
    found: list[str] = []
    seen: set[Path] = set()
    here: Path | None = path
    while here is not None and (here / MANIFEST).is_file() and here.resolve() not in seen:
        seen.add(here.resolve())
        manifest = read_manifest(here)
        recipe = manifest["identity"]["recipe"]
        made_by = recipe.get("surgery", {}).get("operation") or recipe.get("train", {}).get("method")
        if made_by:
            found.append(made_by)
        # Continue with what this artefact was made from. A Hub id has no manifest and ends the walk.
        here = input_path(here, manifest["inputs"].get("base", {}))
    return found[::-1]


def check_history(model: Model) -> None:
    """Refuse a checkpoint that is not of the phase that the recipe continues.

    Raises:
        CheckRefused: the last steps that made it are not those of `model.history`.
    """
    wanted = model.history
    if not wanted or model.path is None or not Path(model.path).is_dir():
        return  # what is not there is refused by whoever opens it
    found = history(Path(model.path))
    if found[-len(wanted) :] != wanted:
        made = f"was made by {', '.join(found)}" if found else "has no manifest that says what made it"
        raise CheckRefused(
            f"model.path {model.path} {made}; this recipe needs {', '.join(wanted)}: run the stage before it, "
            "or set model.history=[] if you mean this checkpoint"
        )
