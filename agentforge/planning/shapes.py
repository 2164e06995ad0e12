"""The shape of a recipe's base model, from its config.json, the Hub's cache, configs/models or the recipe itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from agentforge.errors import UserError, did_you_mean, first_line
from agentforge.models.base_directory import refuse_other_directory
from agentforge.models.config_check import CONFIG_CLASSES, check_model
from agentforge.planning.hub_reachable import hub_cache
from agentforge.planning.sizes import Mixer, Shape
from agentforge.recipe.model_config import config_problems
from agentforge.recipe.schema import Model, Recipe, Surgery, TokenizerTraining
from agentforge.recipe.tables import fields_of
from agentforge.recipe.yaml_files import config_roots, read_yaml
from agentforge.references import resolve
from agentforge.systems.registry import named, operations


class UnknownBase(UserError):
    """Nothing on this machine says what the base is; once it is downloaded or made, its config does."""


# Fields that add parameters which the table does not know, and the value at which they add none.
PLAIN_HYBRID: dict[str, Any] = {
    "attention_bias": False,
    "mlp_bias": False,
    "projectors_bias": False,
    "mamba_proj_bias": False,
    "mamba_conv_bias": True,
    "mamba_rms_norm": False,
}
# Of the types in the table, those whose documents stay apart when they are packed. Training asks the model itself
# (`models.row_isolation`); a plan of these must do without torch, so a test asks for it.
PACKABLE = frozenset({"llama", "mistral", "qwen2", "qwen3"})


def shape_from_config(config: dict[str, Any]) -> Shape:
    """Return the shape that a config.json describes.

    A known architecture is read from the table, without torch. Any other is made on torch's meta device.

    Raises:
        UserError: transformers does not know the architecture, or cannot make it of these fields.
    """
    model_type = config.get("model_type")
    if problems := config_problems(config, layered=model_type not in [*CONFIG_CLASSES]):
        raise UserError("; ".join(f"config of the base: {name} {problem}" for name, problem in problems))
    if model_type in CONFIG_CLASSES and _fits_table(config):
        return _table_shape(config)
    from agentforge.planning.meta import measured_shape

    return measured_shape(config)


def _fits_table(config: dict[str, Any]) -> bool:
    if not sized_by_table(config["model_type"]):
        return False
    if not _is_hybrid(config["model_type"]):
        return True  # its table knows every parameter that its fields can ask for
    return config.get("mamba_d_ssm", 0) is not None and all(
        config.get(name, plain) == plain for name, plain in PLAIN_HYBRID.items()
    )


def sized_by_table(model_type: str) -> bool:
    """Tell whether the table of an architecture says all of its sizes, as those of Llama and its kin do.

    A table of any other checks what a recipe sets; its parameters are counted on the model itself.
    """
    # Every decoder of this kind has these two; who numbers its layers otherwise is another kind.
    return {"num_hidden_layers", "num_key_value_heads"} <= fields_of(CONFIG_CLASSES[model_type]).keys()


def _is_hybrid(model_type: str) -> bool:
    """Tell whether the layers have a Mamba-2 mixer beside their attention."""
    return "mamba_d_ssm" in fields_of(CONFIG_CLASSES[model_type])


def _table_shape(config: dict[str, Any]) -> Shape:
    model_type = config["model_type"]
    fields = fields_of(CONFIG_CLASSES[model_type])
    values: dict[str, Any] = {name: field.get("default") for name, field in fields.items()} | config
    heads = values["num_attention_heads"]
    # Qwen2 always has biases on q, k and v; only Llama and Qwen3 have a field for them.
    bias = model_type in ("llama", "qwen3") and bool(values["attention_bias"])
    return Shape(
        model_type=model_type,
        vocab_size=values["vocab_size"],
        hidden_size=values["hidden_size"],
        intermediate_size=values["intermediate_size"],
        num_hidden_layers=values["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=values["num_key_value_heads"] or heads,
        head_dim=values.get("head_dim") or values["hidden_size"] // heads,
        tie_word_embeddings=values["tie_word_embeddings"],
        attention_windows=tuple(_windows(values)),
        attention_bias=bias or model_type == "qwen2",
        output_bias=bias,
        mlp_bias=model_type == "llama" and bool(values["mlp_bias"]),
        query_key_norm=model_type == "qwen3",
        mixer=_mixer(values) if _is_hybrid(model_type) else None,
        gated_mlp=values.get("mlp", "gated") == "gated",
        norm_weights=bool(values.get("norm_weights", True)),
    )


def _windows(values: dict[str, Any]) -> Iterator[int | None]:
    """Yield what a query sees in each layer: Mistral's window is everywhere, Qwen's in the upper layers, if at all."""
    window, kinds = values.get("sliding_window"), values.get("layer_types")
    everywhere = values["model_type"] == "mistral"
    somewhere = values["model_type"] in ("qwen2", "qwen3") and values["use_sliding_window"]
    # Surgery can leave attention out of layers.
    dropped = values.get("dropped_attention") or []
    for layer in range(values["num_hidden_layers"]):
        if layer not in dropped:
            upper = kinds[layer] == "sliding_attention" if kinds else layer >= values.get("max_window_layers", 0)
            yield window if everywhere or (somewhere and upper) else None


def _mixer(values: dict[str, Any]) -> Mixer:
    return Mixer(
        heads=values["mamba_n_heads"],
        inner=values["mamba_d_ssm"],
        state=values["mamba_d_state"],
        groups=values["mamba_n_groups"],
        taps=values["mamba_d_conv"],
        chunk=values["mamba_chunk_size"] or 256,
    )


def shape_of(recipe: Recipe) -> Shape:
    """Return the shape of a recipe's base.

    Raises:
        UserError: nothing here says what it is.
    """
    return shape_from_config(config_of(recipe))


def config_of(recipe: Recipe) -> dict[str, Any]:
    """Return the config of a recipe's base, from the first place that has it.

    These are its directory, `data.hub_mirror`, the Hub's cache, the recipe that makes it, and configs/models. What
    surgery makes has the config that it makes of its own base's.

    Raises:
        UserError: no place has it, or `model.config` is wrong.
    """
    model = recipe.model
    if model.path is None:
        return _from_scratch(recipe)
    for place in (Path(model.path) / "config.json", _mirrored_config(recipe), cached_config(model)):
        if place is not None and place.is_file():
            return _read_config(place)
    if (maker := maker_of(model.path)) is not None:
        made = maker[1]
        return _operated(config_of(made), made.surgery) if made.surgery else config_of(made)
    known = known_models()
    if model.path not in known:
        refuse_other_directory(model.path)
        raise UnknownBase(
            f"model.path {model.path} is not here, so its shape is not known{did_you_mean(model.path, list(known))}; "
            "run `agentforge download` on this recipe, or add what its config.json says to a file in configs/models"
        )
    return known[model.path]


def _read_config(place: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(place.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{place} is no JSON ({first_line(error)}); download or make it again") from None
    if not isinstance(loaded, dict) or not isinstance(loaded.get("model_type"), str):
        raise UserError(f"{place} names no model_type, so it is not the config of a transformers model")
    return loaded


def _operated(config: dict[str, Any], surgery: Surgery) -> dict[str, Any]:
    """Return the config.json that an operation of surgery makes of another."""
    changes = operations()[surgery.operation].config
    changed: dict[str, Any] = resolve(changes)(config, surgery) if changes else config
    return changed


def _from_scratch(recipe: Recipe) -> dict[str, Any]:
    check_model(recipe.model)
    config = dict(recipe.model.config)
    tokenizer = recipe.model.tokenizer
    if "vocab_size" not in config and isinstance(tokenizer, TokenizerTraining):
        config["vocab_size"] = tokenizer.vocab_size
    elif "vocab_size" not in config and isinstance(tokenizer, str) and (make := named("tokenizers", tokenizer)):
        config["vocab_size"] = len(make())  # a system's own
    elif "vocab_size" not in config and isinstance(tokenizer, str):  # of the model that it belongs to
        owner = recipe.model_copy(update={"model": Model(path=tokenizer)})
        config["vocab_size"] = shape_of(owner).vocab_size
    return config


def _mirrored_config(recipe: Recipe) -> Path | None:
    mirror = recipe.data.hub_mirror
    return None if mirror is None else Path(mirror) / str(recipe.model.path) / "config.json"


def cached_config(model: Model) -> Path | None:
    """Return the config.json of a Hub id in the Hub's cache, or None.

    The same answer as `huggingface_hub.try_to_load_from_cache`, which takes too long to import for `plan`.
    """
    repo = hub_cache() / f"models--{(model.path or '').replace('/', '--')}"
    revision = model.revision or "main"
    reference = repo / "refs" / revision
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
    found = repo / "snapshots" / commit / "config.json"
    return found if found.is_file() else None


def known_models() -> dict[str, dict[str, Any]]:
    """Return the configs of configs/models by Hub id.

    Raises:
        UserError: an entry is no config.
    """
    files = [path for root in reversed(config_roots()) for path in sorted((root / "models").glob("*.yaml"))]
    found: dict[str, dict[str, Any]] = {}
    for path in files:
        for name, config in read_yaml(path).items():
            if not isinstance(config, dict):
                raise UserError(f"{path}: {name} must be a mapping of config fields, it is {config!r}")
            if problems := config_problems(config, layered=True):
                raise UserError(f"{path}: {name}: {problems[0][0]} {problems[0][1]}")
            found[name] = config
    return found


# names that stages give to the models they make
MADE = re.compile(
    rf"-v\d+\.\d+\.\d+-(lora|model|merged|{'|'.join(operation.suffixes for operation in operations().values())})$"
)


def maker_of(path: str) -> tuple[str, Recipe] | None:
    """Return name and recipe (under the profile that fits) of the shipped recipe that makes the model at ``path``."""
    return _maker_of(path, tuple(root.resolve() for root in config_roots()))


@lru_cache  # a plan of a system asks for a dozen paths some hundred times
def _maker_of(path: str, roots: tuple[Path, ...]) -> tuple[str, Recipe] | None:
    from agentforge.recipe.loading import find_recipe, load_recipe, read_extended, recipe_names

    place = Path(path)
    if MADE.search(place.name) is None:
        return None  # a name that no stage gives; reading every recipe would take longer than all the rest
    for name in recipe_names():
        written = read_extended(find_recipe(name))
        if Path(written.get("output_dir", "")) != place.parent:
            continue
        profiles = {None: {}, **written.get("profiles", {})}
        for profile, over in profiles.items():
            if not place.name.startswith(f"{over.get('name', written.get('name'))}-v"):
                continue  # it cannot be; to read it whole would take a hundred times as long
            candidate = load_recipe(name, profile=profile)
            if place in _makes(candidate) and candidate.model.path != path:
                return name, candidate
    return None


def _makes(recipe: Recipe) -> tuple[Path, ...]:
    if recipe.surgery is not None:
        return (recipe.operated,)
    if recipe.model.path is None and not recipe.model.config:
        return ()  # what others extend
    return (recipe.trained, recipe.artifact("merged"))
