"""The shape of a recipe's base model, from its config.json, the Hub's cache, configs/models or the recipe itself."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

from agentforge.errors import UserError, did_you_mean
from agentforge.recipe.schema import Model, Recipe, Surgery, TokenizerTraining
from agentforge.recipe.yaml_files import config_roots, read_yaml
from agentforge.references import resolve
from agentforge.systems.registry import operations

# Defaults of the config classes in transformers, for the fields that decide a size (tested against the classes).
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32},
    "mistral": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
    },
    "qwen2": {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
    },
    "qwen3": {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "head_dim": 128,
    },
}
FALCON_H1: dict[str, Any] = {
    "vocab_size": 128000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "mamba_d_ssm": 1024,
    "mamba_n_heads": 128,
    "mamba_d_state": 256,
    "mamba_n_groups": 1,
    "mamba_d_conv": 4,
}
DEFAULTS |= {"falcon_h1": FALCON_H1, "adamba": FALCON_H1}


@dataclass(frozen=True)
class Mixer:
    """The Mamba-2 mixer beside the attention of each layer (FalconH1, Adamba).

    Attributes:
        heads: each of ``inner / heads`` channels.
        inner: channels of all heads together.
    """

    heads: int
    inner: int
    state: int
    groups: int
    taps: int

    @property
    def conv_size(self) -> int:
        """Channels of the convolution: x, B and C."""
        return self.inner + 2 * self.groups * self.state

    @property
    def in_size(self) -> int:
        """Outputs of `in_proj`: the gate, what the convolution reads, and a step size a head."""
        return self.inner + self.conv_size + self.heads


@dataclass(frozen=True)
class Shape:
    """The numbers that decide how large a decoder of the Llama family is, or one with mixers beside its attention.

    Attributes:
        attention_bias: q, k and v projections have a bias.
        output_bias: and so has o (Llama's ``attention_bias``; Qwen2 has none there).
        mlp_bias: the three projections of the MLP have a bias.
        query_key_norm: an RMSNorm of ``head_dim`` on queries and on keys (Qwen3).
        mixer: None: there is none.
        gated_mlp: the MLP has a third matrix, its gate (nanochat's has none).
        norm_weights: RMSNorms have weights (nanochat's have none).
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    tie_word_embeddings: bool
    attention_bias: bool
    output_bias: bool
    mlp_bias: bool
    query_key_norm: bool
    mixer: Mixer | None = None
    gated_mlp: bool = True
    norm_weights: bool = True

    def scaled(self, share: Fraction) -> Shape:
        """Return the shape whose widths are a share of this one's: heads and their size, depth and state stay."""
        mixer = self.mixer
        if mixer is not None:
            mixer = replace(mixer, heads=int(mixer.heads * share), inner=int(mixer.inner * share))
        return replace(
            self,
            hidden_size=int(self.hidden_size * share),
            intermediate_size=int(self.intermediate_size * share),
            num_attention_heads=int(self.num_attention_heads * share),
            num_key_value_heads=int(self.num_key_value_heads * share),
            mixer=mixer,
        )

    @property
    def query_size(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        return self.num_key_value_heads * self.head_dim


def shape_from_config(config: dict[str, Any]) -> Shape:
    """Return the shape that a config.json describes.

    Raises:
        UserError: the architecture is not of the Llama family, or the hybrid of it.
    """
    model_type = config.get("model_type")
    if model_type not in DEFAULTS:
        raise UserError(
            f"the plan knows the shapes of {', '.join(DEFAULTS)}; this model_type is "
            f"'{model_type}'{did_you_mean(str(model_type), list(DEFAULTS))}"
        )
    known = {"num_attention_heads": 32, "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False}
    values: dict[str, Any] = (
        known | DEFAULTS[model_type] | {key: value for key, value in config.items() if value is not None}
    )
    heads = values["num_attention_heads"]
    bias = model_type == "qwen2" or bool(values["attention_bias"])
    return Shape(
        model_type=model_type,
        vocab_size=values["vocab_size"],
        hidden_size=values["hidden_size"],
        intermediate_size=values["intermediate_size"],
        num_hidden_layers=values["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=values.get("num_key_value_heads") or heads,
        head_dim=values.get("head_dim", values["hidden_size"] // heads),
        tie_word_embeddings=values["tie_word_embeddings"],
        attention_bias=bias,
        output_bias=bias and model_type in ("llama", "qwen3"),
        mlp_bias=model_type == "llama" and bool(values["mlp_bias"]),
        query_key_norm=model_type == "qwen3",
        mixer=_mixer(values) if "mamba_d_ssm" in DEFAULTS[model_type] else None,
        gated_mlp=values.get("mlp", "gated") == "gated",
        norm_weights=bool(values.get("norm_weights", True)),
    )


def _mixer(values: dict[str, Any]) -> Mixer:
    return Mixer(
        heads=values["mamba_n_heads"],
        inner=values["mamba_d_ssm"],
        state=values["mamba_d_state"],
        groups=values["mamba_n_groups"],
        taps=values["mamba_d_conv"],
    )


def shape_of(recipe: Recipe) -> Shape:
    """Return the shape of a recipe's base.

    Raises:
        UserError: nothing here says what it is.
    """
    return shape_from_config(config_of(recipe))


def teacher_shape(recipe: Recipe) -> Shape:
    """Return the shape of the model that `train.distill` learns from.

    Raises:
        UserError: nothing here says what it is.
    """
    assert recipe.train.distill is not None
    return shape_of(recipe.model_copy(update={"model": Model(path=recipe.train.distill.teacher)}))


def config_of(recipe: Recipe) -> dict[str, Any]:
    """Return the base's config: of its directory, the Hub's cache, the recipe that makes it, or configs/models.

    What surgery makes has the config that it makes of its own base's.
    """
    model = recipe.model
    if model.path is None:
        return _from_scratch(recipe)
    for place in (Path(model.path) / "config.json", cached_config(model)):
        if place is not None and place.is_file():
            loaded: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
            return loaded
    if (maker := maker_of(model.path)) is not None:
        made = maker[1]
        return _operated(config_of(made), made.surgery) if made.surgery else config_of(made)
    known = known_models()
    if model.path not in known:
        raise UserError(
            f"model.path {model.path} is not here and its shape is not known{did_you_mean(model.path, list(known))}; "
            "download or make it, or add its config to a file in configs/models"
        )
    return known[model.path]


def _operated(config: dict[str, Any], surgery: Surgery) -> dict[str, Any]:
    """Return the config.json that an operation of surgery makes of another."""
    changes = operations()[surgery.operation].config
    changed: dict[str, Any] = resolve(changes)(config, surgery) if changes else config
    return changed


def _from_scratch(recipe: Recipe) -> dict[str, Any]:
    config = dict(recipe.model.config)
    if not config:
        raise UserError(
            "the recipe names no base: give model.path, or model.config with a model_type to start from scratch"
        )
    tokenizer = recipe.model.tokenizer
    if "vocab_size" not in config and isinstance(tokenizer, TokenizerTraining):
        config["vocab_size"] = tokenizer.vocab_size
    elif "vocab_size" not in config and isinstance(tokenizer, str):  # of the model that it belongs to
        owner = recipe.model_copy(update={"model": Model(path=tokenizer)})
        config["vocab_size"] = shape_of(owner).vocab_size
    return config


def cached_config(model: Model) -> Path | None:
    """Return the config.json of a Hub id in the Hub's cache, or None."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    repo = cache / f"models--{(model.path or '').replace('/', '--')}"
    revision = model.revision or "main"
    reference = repo / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    found = repo / "snapshots" / commit / "config.json"
    return found if found.is_file() else None


def known_models() -> dict[str, dict[str, Any]]:
    """Return the configs of configs/models by Hub id."""
    files = [path for root in reversed(config_roots()) for path in sorted((root / "models").glob("*.yaml"))]
    return {name: config for path in files for name, config in read_yaml(path).items()}


MADE = re.compile(
    r"-v\d+\.\d+\.\d+-(lora|model|merged|grafted|expanded|ordered|attention-dropped|sliced|width-\w+|depth-\d+)$"
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
