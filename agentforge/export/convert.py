"""A checkpoint into GGUF, and GGUF into its quantisations."""

from __future__ import annotations

import ast
import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from agentforge.artifacts import write_json
from agentforge.data.tokenizer import QWEN2_PATTERN
from agentforge.errors import CheckRefused
from agentforge.export.gguf_metadata import LICENSE
from agentforge.export.llama_cpp import VERSION, ask_llama_cpp, converter_source
from agentforge.models.checkpoint import INDEX_FILE, Checkpoint, write_shard
from agentforge.recipe.schema import Quantization
from agentforge.systems.registry import system_of

log = logging.getLogger(__name__)

HEAD_FILE = "model-head.safetensors"
METADATA = "gguf-metadata.json"
MODEL_CARD = "README.md"
FILE_TYPES: dict[Quantization, int] = {"f16": 1, "q8": 7, "q5km": 17, "q4km": 15}  # enum llama_ftype in llama.h
UNQUANTIZED_FILE_TYPES = {"float32": 0, "float16": 1, "bfloat16": 32}
BYTES_PER_WEIGHT: dict[Quantization, float] = {"f16": 2.0, "q8": 1.07, "q5km": 0.72, "q4km": 0.62}


@dataclass(frozen=True)
class Conversion:
    """What llama.cpp's converter must be told about one architecture.

    Attributes:
        arguments: further command-line arguments.
        config: entries of config.json that it reads under other values than transformers writes.
        untied: write the head that the model shares with its embedding as a tensor of its own.
    """

    arguments: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    untied: bool = False


def known_architectures(tree: Path) -> set[str]:
    """Return the names in the converter's table of text models (read, not imported: that takes torch)."""
    module = ast.parse((tree / "conversion" / "__init__.py").read_text(encoding="utf-8"))
    for node in module.body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "TEXT_MODEL_MAP" and node.value:
            return set(ast.literal_eval(node.value))
    raise RuntimeError(f"{tree}: TEXT_MODEL_MAP is not where it was in llama-cpp-python {VERSION}")


def plan_conversion(config: dict[str, Any], tree: Path) -> Conversion:
    """Return how a model of this config is converted.

    Raises:
        CheckRefused: llama.cpp does not know the architecture, or is known to compute it differently.
    """
    architecture = (config.get("architectures") or ["none"])[0]
    if (system := system_of(config)) is not None and (refusal := system.gguf_refusal(config)) is not None:
        raise CheckRefused(refusal)
    if architecture not in known_architectures(tree):
        raise CheckRefused(
            f"GGUF has no architecture for {architecture} (llama.cpp of llama-cpp-python {VERSION}); "
            "serve the merged checkpoint with transformers or vLLM instead"
        )
    if architecture == "Qwen3MoeForCausalLM" and not config.get("norm_topk_prob", False):
        raise CheckRefused(
            "llama.cpp always normalises the routing weights of Qwen3MoE, but this model has norm_topk_prob=false: "
            "its GGUF would load and be wrong; serve the merged checkpoint instead"
        )
    if architecture == "NemotronHForCausalLM":
        raise CheckRefused(
            f"llama.cpp of llama-cpp-python {VERSION} cannot load what its converter makes of {architecture}; "
            "serve the merged checkpoint instead"
        )
    if architecture == "Qwen3NextForCausalLM":
        return Conversion(arguments=("--no-mtp",))  # transformers does not keep the speculative head it looks for
    if architecture == "FalconH1ForCausalLM" and config.get("tie_word_embeddings"):
        # the converter multiplies the embedding by its own multiplier, and llama.cpp would use that as the head
        same = config.get("embedding_multiplier", 1.0) == config.get("lm_head_multiplier", 1.0)
        return Conversion() if same else Conversion(config={"tie_word_embeddings": False}, untied=True)
    if architecture == "GraniteMoeHybridForCausalLM" and "layer_types" in config:
        older = {"linear_attention": "mamba", "full_attention": "attention"}
        return Conversion(config={"layer_types": [older.get(kind, kind) for kind in config["layer_types"]]})
    return Conversion()


def known_difference(config: Mapping[str, Any]) -> str | None:
    """Return what llama.cpp computes otherwise than a model of this config; the check shows whether it matters."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type")) == "yarn" and rope.get("truncate") is False:
        # ggml_rope_yarn_corr_dims: floorf and ceilf, whatever the model says
        return (
            "llama.cpp rounds the ends of YaRN's range to whole dimensions, and this model does not (truncate: false)"
        )
    return None


def is_qwen2_pre_tokenizer(tokenizer_json: Path) -> bool:
    """Tell whether a tokenizer.json splits text exactly as Qwen2's does: NFC, Qwen2's pattern, then bytes."""
    described = json.loads(tokenizer_json.read_text(encoding="utf-8"))
    steps = (described.get("pre_tokenizer") or {}).get("pretokenizers", [])
    if (described.get("normalizer") or {}).get("type") != "NFC" or len(steps) != 2:
        return False
    split, to_bytes = steps
    return bool(
        split.get("type") == "Split"
        and split.get("pattern") == {"Regex": QWEN2_PATTERN}
        and split.get("behavior") == "Isolated"
        and not split.get("invert")
        and to_bytes.get("type") == "ByteLevel"
        and not to_bytes.get("add_prefix_space")
        and not to_bytes.get("use_regex")
    )


def conversion_view(
    checkpoint: Path,
    view: Path,
    plan: Conversion,
    template: str | None,
    metadata: Mapping[str, Any] | None = None,
    described: Mapping[str, Any] | None = None,
) -> None:
    """Make a directory of links to a checkpoint, with those files rewritten that the converter must read differently.

    Args:
        checkpoint: a merged or trained model.
        view: directory to make.
        plan: entries for config.json.
        template: the chat template for serving; None if the model has none.
        metadata: from `gguf_metadata`; None: the file is called what the directory is called.
        described: from `described_for_sentencepiece`; None: as the tokenizer's files say.
    """
    view.mkdir()
    for file in checkpoint.iterdir():
        # Not its card: the converter would copy what that says of another model, the base.
        if file.is_file() and file.name != MODEL_CARD:
            # Links, so that a 65 GB checkpoint is neither copied nor changed.
            (view / file.name).symlink_to(file.resolve())
    _rewrite(view / "config.json", plan.config)
    if plan.untied:
        _write_head(view)
    if template is not None:
        _rewrite(view / "tokenizer_config.json", {"chat_template": None})  # chat_template.jinja is what counts
        (view / "chat_template.jinja").unlink(missing_ok=True)
        (view / "chat_template.jinja").write_text(template, encoding="utf-8")
    if described is not None and (view / "tokenizer.model").is_file():
        _rewrite(view / "tokenizer_config.json", dict(described))
    if metadata is not None:
        write_json(view / METADATA, dict(metadata))
        if licence := metadata.get(LICENSE):
            # The only entry that the converter takes from a model card alone.
            card = yaml.safe_dump({"license": licence})
            (view / MODEL_CARD).write_text(f"---\n{card}---\n", encoding="utf-8")


def _write_head(view: Path) -> None:
    weights = Checkpoint(view)
    (embedding,) = (name for name in weights.weight_map if name.endswith("embed_tokens.weight"))
    tensor = weights.read(embedding)
    # The converter reads every file whose name begins with `model` and ends with `.safetensors`, this one too.
    write_shard(view / HEAD_FILE, {"lm_head.weight": (tensor.dtype, tuple(tensor.shape))}, lambda name: tensor)
    if (index := view / INDEX_FILE).exists():
        _rewrite(index, {"weight_map": weights.weight_map | {"lm_head.weight": HEAD_FILE}})


def _rewrite(path: Path, changes: dict[str, Any]) -> None:
    content = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    # It is a link: writing through it would change the checkpoint. Entries that are set to None are removed.
    path.unlink()
    write_json(path, {key: value for key, value in content.items() if value is not None or key not in changes})


def convert(view: Path, target: Path, dtype: str, plan: Conversion) -> None:
    """Run the converter; weights keep their precision (float16 for bfloat16 weights would overflow or lose range).

    Args:
        view: directory from `conversion_view`.
        target: the .gguf to write.
        dtype: dtype of the checkpoint, ``bfloat16``, ``float32`` or ``float16``.
        plan: from `plan_conversion`.

    Raises:
        CheckRefused: the converter refuses the model or its tokenizer.
    """
    tree = converter_source()
    named = "qwen2" if is_qwen2_pre_tokenizer(view / "tokenizer.json") else ""
    outtype = {"bfloat16": "bf16", "float32": "f32", "float16": "f16"}[dtype]
    command = [sys.executable, "-m", "agentforge.export.convert_hf", str(tree), named, str(view)]
    command += ["--outfile", str(target), "--outtype", outtype, *plan.arguments]
    if (view / METADATA).is_file():
        command += ["--metadata", str(view / METADATA)]
    done = subprocess.run(command, capture_output=True, text=True)
    log.debug("%s", done.stderr)
    if done.returncode == 0 and target.is_file():
        return
    reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    if "BPE pre-tokenizer was not recognized" in reason:
        raise CheckRefused(
            "llama.cpp does not know how this tokenizer splits text, and it does not split like Qwen2's; "
            "use the tokenizer of a known model, or one that `prepare` trains"
        )
    raise CheckRefused(f"llama.cpp's converter refuses this model: {reason}")


def quantize(source: Path, target: Path, quantization: Quantization) -> None:
    """Write a quantised copy of a GGUF with llama.cpp's own quantiser.

    Raises:
        CheckRefused: it fails.
    """
    ask_llama_cpp("quantize", source, target, str(FILE_TYPES[quantization]))


def tensor_types(file: Path) -> dict[str, int]:
    """Return how many tensors of a GGUF have each type.

    Rows whose length is no multiple of 256 cannot hold K-quants; llama.cpp gives them another type without a word.
    """
    from gguf import GGUFReader

    counts: dict[str, int] = {}
    for tensor in GGUFReader(file).tensors:
        counts[tensor.tensor_type.name] = counts.get(tensor.tensor_type.name, 0) + 1
    return dict(sorted(counts.items()))
