"""Checkpoints of Adambas, made tensor by tensor: no more than the largest tensor is in memory at one time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers.initialization import no_init_weights

from agentforge.artifacts import write_json
from agentforge.errors import CheckRefused, UserError
from agentforge.models.checkpoint import DTYPES, INDEX_FILE, SINGLE_FILE, Checkpoint, write_shard
from agentforge.models.checkpoint_files import require_space
from agentforge.progress import watched
from agentforge.systems.adamba.modeling.configuration import AdambaConfig
from agentforge.systems.adamba.modeling.dropped_attention import check_silent, output_names
from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SHARD_BYTES = 4 * 2**30

Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]
"""Name to dtype and shape."""


def read_config(directory: Path) -> Any:
    """Return the config of an Adamba, or of a plain FalconH1, with the size of a head written out.

    Raises:
        UserError: the directory holds another kind of model, or one that has biases, which no width could share.
    """
    fields = Checkpoint(directory).config
    kind = fields.get("model_type")
    if kind not in ("falcon_h1", "adamba"):
        raise UserError(f"{directory} is a {kind}, not an Adamba; graft it first (surgery: operation: graft)")
    if biased := [
        name for name in ("attention_bias", "mlp_bias", "projectors_bias", "mamba_proj_bias") if fields.get(name)
    ]:
        raise UserError(f"{directory}: {biased[0]} is on, but agentforge slices and expands only models without biases")
    config: Any = AdambaConfig.from_pretrained(directory)
    config.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    config.mamba_d_ssm = config.mamba_n_heads * config.mamba_d_head
    return config


def names_and_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a config's checkpoint in the model's order; a tied head is not among them."""
    # Ask the model class itself, on the meta device: a list kept by hand would drift away from it.
    with no_init_weights(), torch.device("meta"):
        state = AdambaForCausalLM._from_config(config).state_dict()
    return {
        name: tuple(tensor.shape) for name, tensor in state.items() if not (config.tie_word_embeddings and name == HEAD)
    }


def main_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """Return the dtype of a checkpoint's embeddings, and so of what is added to it."""
    name = next(name for name in checkpoint.tensors if name.endswith(("embed_tokens.weight", "wte.weight")))
    return DTYPES[checkpoint.tensors[name].dtype]


class Weights(Protocol):
    """A checkpoint's tensors: of what shape they are, and each by its name."""

    directory: Path

    @property
    def tensors(self) -> Mapping[str, Any]: ...

    def read(self, name: str) -> torch.Tensor: ...


def check_tensors(checkpoint: Weights, wanted: Mapping[str, tuple[int, ...]], tied: bool) -> None:
    """Refuse a checkpoint whose tensors are not just those that its config asks for.

    Args:
        checkpoint: the weights.
        wanted: name to shape; of a tied model without its head.
        tied: the config says that the head is the embedding.

    Raises:
        CheckRefused: the first tensor that is missing, unknown or of another shape; or a head that is there although it
            is tied, and differs from the embedding.
    """
    found = dict(checkpoint.tensors)
    where = checkpoint.directory
    if tied and HEAD in found:
        embedding = next(name for name in wanted if name.endswith("embed_tokens.weight"))
        if not torch.equal(checkpoint.read(HEAD), checkpoint.read(embedding)):
            raise CheckRefused(
                f"{where}: config.json ties {HEAD} to {embedding}, but the file has a different {HEAD}; "
                "set tie_word_embeddings to false if the head was trained separately"
            )
        del found[HEAD]
    if not tied and HEAD not in found:
        raise CheckRefused(
            f"{where}: config.json says that {HEAD} is not tied, but the file has none; set tie_word_embeddings to "
            "true if the head is the embedding"
        )
    for kind, names in (("lacks", set(wanted) - set(found)), ("has unknown", set(found) - set(wanted))):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckRefused(f"{where} {kind} {min(names)}{more}: it is not the model that its config.json describes")
    for name, shape in wanted.items():
        if (stored := tuple(found[name].shape)) != shape:
            raise CheckRefused(f"{where}: {name} is {stored}, but its config asks for {shape}")


def open_adamba(directory: Path) -> tuple[Any, Checkpoint]:
    """Return config and weights of an Adamba whose tensors are just those of its config.

    Raises:
        UserError: it is no Adamba.
        CheckRefused: tensors are missing, unknown, of another shape, or tied otherwise than the config says; or it has
            attention that its config drops.
    """
    config, checkpoint = read_config(directory), Checkpoint(directory)
    check_tensors(checkpoint, names_and_shapes(config), config.tie_word_embeddings)
    check_silent(config, directory, lambda name: checkpoint.read(name) if name in checkpoint.tensors else None)
    return config, checkpoint


def write_adamba(
    directory: Path,
    config: Any,
    dtype: torch.dtype,
    tensor: Callable[[str], torch.Tensor],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write an Adamba's config and weights, in shards with an index if they are more than one.

    `o_proj` is written as zeros where the config drops the attention, whatever ``tensor`` gives.

    Args:
        directory: where to.
        config: of the model that is written.
        dtype: of all its tensors.
        tensor: gives each tensor when its turn comes; those of one layer come one after the other.
        shard_bytes: a shard is closed before it grows above this.
    """
    layout: Layout = {name: (dtype, shape) for name, shape in names_and_shapes(config).items()}
    size = sum(torch.Size(shape).numel() * dtype.itemsize for _, shape in layout.values())
    require_space(directory, size, f"writing {directory.name}")
    # Done for every writer, not just where attention is dropped: expanding or slicing such a model must keep it
    # silent too.
    silent = output_names(config)

    def written(name: str) -> torch.Tensor:
        return torch.zeros(layout[name][1], dtype=dtype) if name in silent else tensor(name)

    shards = _shards(layout, shard_bytes)
    for file, part in watched(shards.items(), "writing", "shards", len(shards)):
        write_shard(directory / file, part, written)
    if len(shards) > 1:
        weight_map = {name: file for file, part in shards.items() for name in part}
        write_json(directory / INDEX_FILE, {"metadata": {"total_size": size}, "weight_map": weight_map})
    config.architectures = [AdambaForCausalLM.__name__]
    config.dtype = dtype
    config.save_pretrained(directory)


def _shards(layout: Layout, shard_bytes: int) -> dict[str, Layout]:
    # Shards keep the model's order, so that whoever writes them makes one layer after the other.
    parts: list[Layout] = [{}]
    size = 0
    for name, (dtype, shape) in layout.items():
        needed = torch.Size(shape).numel() * dtype.itemsize
        if parts[-1] and size + needed > shard_bytes:
            parts.append({})
            size = 0
        parts[-1][name] = (dtype, shape)
        size += needed
    if len(parts) == 1:
        return {SINGLE_FILE: parts[0]}
    return {f"model-{number:05d}-of-{len(parts):05d}.safetensors": part for number, part in enumerate(parts, 1)}
