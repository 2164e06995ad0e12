"""Which model a verb means: ``base``, ``lora``, ``model``, ``merged``, a quantisation, what surgery made, or a path."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from agentforge.artifacts import MANIFEST, read_manifest
from agentforge.errors import UserError, did_you_mean
from agentforge.manifest import check_files
from agentforge.recipe.schema import Quantization, Recipe
from agentforge.systems.registry import operations

log = logging.getLogger(__name__)

QUANTIZATIONS: tuple[str, ...] = get_args(Quantization)
NAMES = ("base", "lora", "model", "merged", *QUANTIZATIONS)
# what surgery calls its results: grafted, width-1of2, depth-4 ...
SURGICAL = re.compile("|".join(operation.suffixes for operation in operations().values()))
# The most faithful first: what the training made, whole; then as an adapter; then its quantisations.
PREFERENCE = ("merged", "lora", "model", "f16", "q8", "q5km", "q4km")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class ModelLocation:
    """Where a model's weights lie and how they are opened.

    Attributes:
        kind: a Hugging Face checkpoint, a PEFT adapter, or one GGUF file.
        path: directory or Hub id; for ``gguf`` the file itself.
        label: short name, used for ``-eval-<label>`` and as the served model's id.
        base: directory or Hub id under an adapter.
        revision: commit or tag, where the weights (or the base) come from the Hub.
        template: chat template to install, as in `data.template`; None: the tokenizer has the one it was trained with.
        template_options, add_tokens: see `data.template_options` and `data.add_tokens`.
        trust_remote_code: the recipe lets the checkpoint bring its own modelling code.
    """

    kind: Literal["hf", "adapter", "gguf"]
    path: str
    label: str
    base: str | None = None
    revision: str | None = None
    template: str | None = None
    template_options: dict[str, Any] = field(default_factory=dict, hash=False)
    add_tokens: tuple[str, ...] = ()
    trust_remote_code: bool = False


def locate_model(recipe: Recipe, which: str | None = None) -> ModelLocation:
    """Return the model that ``which`` names.

    Args:
        recipe: names the artefacts and the base.
        which: one of `NAMES`, what `surgery` made (``grafted``, ``width-1of2``), a path (checkpoint, adapter,
            .gguf), or None: the most faithful artefact that is not older than the training; where there is none, what
            the recipe's surgery made.

    Raises:
        UserError: it does not exist; the sentence names the command that makes it.
    """
    if which is None:
        which = _newest(recipe)
        log.info("using the model '%s' (%s); choose another with --model", which, recipe.artifact(which))
    if which == "base":
        return _base(recipe)
    if which not in NAMES and not SURGICAL.fullmatch(which):
        return locate_path(which)
    if (missing := _explain_missing(recipe, which)) is not None:
        raise UserError(missing)
    check_files(recipe.artifact(which))
    location = locate_path(str(recipe.artifact(which)), label=which)
    if location.kind == "adapter" and recipe.model.path is not None:
        # The recipe's base, not the path that PEFT wrote down on the machine that trained.
        return _adapter(Path(location.path), which, recipe.model.path, recipe)
    return location


def locate_path(path: str, label: str | None = None) -> ModelLocation:
    """Return what lies at ``path``: a .gguf file, a directory with one, an adapter or a checkpoint.

    Raises:
        UserError: nothing is there, or nothing that is a model.
    """
    place = Path(path)
    label = label or label_of(path)
    if place.is_file():
        if place.suffix != ".gguf":
            raise UserError(
                f"{path} is a file but not a .gguf; give a .gguf file, or the directory of a checkpoint or adapter"
            )
        return ModelLocation("gguf", path, label)
    if not place.is_dir():
        hint = did_you_mean(path, NAMES)
        raise UserError(f"there is no model '{path}'{hint or '; give ' + ', '.join(NAMES) + ', or a path'}")
    if (place / "adapter_config.json").is_file():
        return _adapter(place, label)
    if (place / "config.json").is_file():
        return ModelLocation("hf", path, label)
    if len(files := sorted(place.glob("*.gguf"))) == 1:
        return ModelLocation("gguf", str(files[0]), label)
    what = (
        f"{len(files)} .gguf files; name one of them"
        if files
        else "neither config.json, adapter_config.json nor a .gguf"
    )
    raise UserError(f"{path} is not a model: it holds {what}")


def label_of(which: str) -> str:
    """Return the label of a model that is named by its path; a name without a path is its own label."""
    place = Path(which)
    return re.sub(r"[^\w.-]+", "-", place.stem if place.suffix == ".gguf" else place.name) or "model"


def model_inputs(location: ModelLocation) -> dict[str, Path | str]:
    """Return what a stage that reads a model depends on, as `stage_directory` takes it: paths, or Hub ids."""
    if location.kind != "adapter":
        return {"model": _path_or_id(location.path, location.revision)}
    return {"base": _path_or_id(str(location.base), location.revision), "model": Path(location.path)}


def _path_or_id(path: str, revision: str | None) -> Path | str:
    return Path(path) if Path(path).exists() else f"{path}@{revision or 'main'}"


def _base(recipe: Recipe) -> ModelLocation:
    model = recipe.model
    if model.path is None:
        raise UserError(
            f"{recipe.full_name} has no base: model.path is not set, so its model is made from model.config"
        )
    _check_base(model.path)
    # With the recipe's own template, so that the base reads the very prompts that the trained model reads.
    return ModelLocation(
        "hf",
        model.path,
        "base",
        revision=model.revision,
        template=recipe.data.template,
        template_options=recipe.data.template_options,
        add_tokens=tuple(recipe.data.add_tokens),
        trust_remote_code=model.trust_remote_code,
    )


def _check_base(path: str) -> None:
    if Path(path).is_dir() or HUB_ID.fullmatch(path):
        return
    raise UserError(f"the base model {path} does not exist; run `agentforge train` on the recipe that makes it")


def _adapter(place: Path, label: str, base: str | None = None, recipe: Recipe | None = None) -> ModelLocation:
    config = json.loads((place / "adapter_config.json").read_text(encoding="utf-8"))
    base = base or config.get("base_model_name_or_path")
    if not base:
        raise UserError(f"{place}/adapter_config.json does not say which base the adapter belongs to")
    _check_base(base)
    if recipe is None:
        return ModelLocation("adapter", str(place), label, base=base, revision=config.get("revision"))
    return ModelLocation(
        "adapter",
        str(place),
        label,
        base=base,
        revision=recipe.model.revision,
        trust_remote_code=recipe.model.trust_remote_code,
    )


def _explain_missing(recipe: Recipe, which: str) -> str | None:
    target = recipe.artifact(which)
    if (target / MANIFEST).is_file():
        return None
    if which in ("lora", "model") and recipe.trained != target:
        has = recipe.trained.name.removeprefix(f"{recipe.full_name}-")
        return f"{recipe.full_name} makes '{has}', not '{which}' (train.lora decides); use --model {has}"
    if SURGICAL.fullmatch(which):
        return _explain_unmade(recipe, which)
    if which in QUANTIZATIONS and which not in recipe.export.gguf:
        return f"{target} does not exist: add '{which}' to export.gguf and run `agentforge gguf` on this recipe"
    verb = {"lora": "train", "model": "train", "merged": "merge"}.get(which, "gguf")
    return f"{target} does not exist; run `agentforge {verb}` on this recipe first"


def _explain_unmade(recipe: Recipe, which: str) -> str:
    target = recipe.artifact(which)
    if recipe.surgery is None:
        return (
            f"{target} does not exist, and {recipe.full_name} has no surgery; name the recipe that makes it, or a path"
        )
    made = recipe.operated.name.removeprefix(f"{recipe.full_name}-")
    if made != which:
        return f"the surgery of {recipe.full_name} makes '{made}', not '{which}'; use --model {made}"
    return f"{target} does not exist; run `agentforge surgery` on this recipe first"


def _newest(recipe: Recipe) -> str:
    finished = {
        name: str(read_manifest(recipe.artifact(name))["finished"])
        for name in PREFERENCE
        if (recipe.artifact(name) / MANIFEST).is_file()
    }
    # An artefact older than the training (a -merged of the run before) holds other weights than the newest.
    trained_at = max((finished[name] for name in ("lora", "model") if name in finished), default="")
    for name in PREFERENCE:
        if name in finished and finished[name] >= trained_at:
            return name
    if recipe.surgery is not None and (recipe.operated / MANIFEST).is_file():
        return recipe.operated.name.removeprefix(f"{recipe.full_name}-")
    raise UserError(
        f"there is no model of {recipe.full_name} in {recipe.output_dir} yet; run `agentforge train` on this recipe, "
        "or use --model base"
    )
