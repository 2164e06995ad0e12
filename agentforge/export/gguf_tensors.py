"""Are the tensors inside a GGUF the checkpoint's? All of them, dequantised, row by row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from agentforge.errors import CheckRefused
from agentforge.models.checkpoint import Checkpoint

EXPERT = re.compile(r"\.experts\.(\d+)\.")
SUFFIXES = (".weight", ".bias")
# The largest error of an element, in parts of its row's largest element. A quantised block spreads its levels over its
# own range, which the row's largest element bounds; the bounds are some twice what random rows show.
ROW_TOLERANCE = {
    "Q8_0": 0.01, "Q6_K": 0.06, "Q5_K": 0.12, "Q5_1": 0.08, "Q5_0": 0.1, "Q4_K": 0.25, "Q4_1": 0.15, "Q4_0": 0.2
}  # fmt: skip
# Unquantised elements are each within this part of themselves.
OWN_TOLERANCE = {"F32": 1e-6, "F16": 1e-3, "BF16": 8e-3}
# As many rows must fit a rule before the others are called damaged instead of the rule wrong.
FITTING = 0.9
ENDS = ("token_embd.weight", "output.weight")
ROWS_AT_ONCE = 8192


@dataclass
class TensorReport:
    """Which tensors of a file were compared.

    Attributes:
        compared: names of those equal to the checkpoint's up to their type's rounding.
        others: names of those that the converter changed in a way that this module does not know. A quantisation's are
            compared with the conversion's; for the conversion's only its logits vouch.
    """

    compared: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def check_tensors(
    tensors: Mapping[str, Any],
    architecture: str,
    weights: Checkpoint,
    config: Mapping[str, Any],
    conversion: Mapping[str, Any] | None = None,
) -> TensorReport:
    """Refuse a GGUF with a tensor that is missing, of another shape, or differs in any row from the checkpoint's.

    Args:
        tensors: name to the `gguf.ReaderTensor`.
        architecture: GGUF's name of it.
        weights: the checkpoint.
        config: its config, as converted.
        conversion: the tensors of the GGUF that the file was quantised from; None if it is that one.

    Raises:
        CheckRefused: with the first tensor and row that differ.
    """
    sources = _sources(weights, architecture)
    tied = bool(config.get("tie_word_embeddings"))
    # Of the others, llama.cpp misses those that it needs; converters split and join some.
    if lacking := sorted(set(sources) & set(ENDS[:1] if tied else ENDS) - set(tensors)):
        raise CheckRefused(f"the GGUF lacks the tensor {lacking[0]}; it was not published")
    if "output.weight" in tensors and "output.weight" not in sources:
        # A head of its own beside a shared one must be the same rows.
        sources["output.weight"] = sources["token_embd.weight"]
    report = TensorReport()
    for name, tensor in tensors.items():
        if name not in sources:
            report.others.append(name)
        elif _check_tensor(name, tensor, _read(weights, sources[name]), config):
            report.compared.append(name)
        else:
            report.others.append(name)
    if conversion is not None:
        _check_others(report, tensors, conversion)
    for name in ENDS:
        if name in report.others and name in sources:
            raise CheckRefused(f"the GGUF's {name} is not the checkpoint's; it was not published")
    return report


def _check_others(report: TensorReport, tensors: Mapping[str, Any], conversion: Mapping[str, Any]) -> None:
    """Hold what the converter changed against the conversion, for whose computation its logits vouch."""
    if set(tensors) != set(conversion):
        name = min(set(tensors) ^ set(conversion))
        raise CheckRefused(f"the GGUF and its conversion do not both have the tensor {name}; it was not published")
    for name in report.others:
        if not _check_tensor(name, tensors[name], _dequantized(conversion[name]), {}):
            raise CheckRefused(f"the GGUF's {name} is not that of its conversion; it was not published")


def _sources(weights: Checkpoint, architecture: str) -> dict[str, list[str]]:
    """Return for each tensor that the GGUF must have the checkpoint's names: one, or one an expert."""
    import gguf

    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    if architecture not in kinds:
        return {}
    layers = [int(found) for name in weights.tensors for found in re.findall(r"\.(\d+)\.", name)[:1]]
    names = gguf.get_tensor_name_map(kinds[architecture], max(layers, default=0) + 1)
    sources: dict[str, list[str]] = {}
    for name in sorted(weights.tensors, key=_by_number):
        known = EXPERT.sub(".experts.", name).replace(".dt_bias", ".dt_proj.bias")  # Mamba-2's has no projection
        mapped = names.get_name(known, try_suffixes=SUFFIXES)
        if mapped is not None:
            sources.setdefault(mapped, []).append(name)
    return sources


def _by_number(name: str) -> list[Any]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _read(weights: Checkpoint, names: list[str]) -> np.ndarray:
    parts = [weights.read(name).to(torch.float32).numpy() for name in names]
    return parts[0] if len(parts) == 1 else np.stack(parts)


def _check_tensor(name: str, tensor: Any, expected: np.ndarray, config: Mapping[str, Any]) -> bool:
    """Compare one tensor; False if no rule that this module knows leads from the checkpoint's to it."""
    kind = tensor.tensor_type.name
    if kind not in ROW_TOLERANCE and kind not in OWN_TOLERANCE:
        return False
    found = _dequantized(tensor)
    if found.size != expected.size:
        return False
    # A vector is compared element by element, anything else row by row.
    width = found.shape[-1] if found.ndim > 1 else 1
    found = found.reshape(-1, width)
    for rule in _rules(name, expected, config):
        wanted = rule().reshape(found.shape)
        fits = _fitting_rows(found, wanted, kind)
        if fits.all():
            return True
        if fits.mean() >= FITTING or not np.isfinite(found).all():
            row = int(np.flatnonzero(~fits)[0])
            raise CheckRefused(
                f"the GGUF's {name} ({kind}) differs from the checkpoint in {int((~fits).sum())} of {len(fits)} rows, "
                f"first in row {row} by up to {np.abs(found[row] - wanted[row]).max():.3g}; it was not published"
            )
    return False


def _dequantized(tensor: Any) -> np.ndarray:
    import gguf

    return np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type))


def _fitting_rows(found: np.ndarray, wanted: np.ndarray, kind: str) -> np.ndarray:
    # By parts: an embedding of 150,000 rows is gigabytes, and so would each intermediate array be.
    starts = range(0, len(found), ROWS_AT_ONCE)
    parts = (slice(start, start + ROWS_AT_ONCE) for start in starts)
    return np.concatenate([_fitting_part(found[part], wanted[part], kind) for part in parts])


def _fitting_part(found: np.ndarray, wanted: np.ndarray, kind: str) -> np.ndarray:
    error = np.abs(found - wanted)
    if kind in OWN_TOLERANCE:
        bound = np.abs(wanted) * OWN_TOLERANCE[kind] + (6e-8 if kind == "F16" else 1e-12)  # float16's least number
    else:
        bound = np.abs(wanted).max(-1, keepdims=True) * ROW_TOLERANCE[kind] + 1e-7
    # `<=` is False for NaN
    return np.asarray((error <= bound).all(-1))


def _rules(name: str, tensor: np.ndarray, config: Mapping[str, Any]) -> Iterator[Any]:
    """Yield what converters make of a tensor: nothing, or one of the few rewritings that llama.cpp's graphs want."""
    yield lambda: tensor
    if ".attn_q." in name or ".attn_k." in name:
        heads = config.get("num_attention_heads") if ".attn_q." in name else config.get("num_key_value_heads")
        if heads and len(tensor) % (2 * heads) == 0:
            yield partial(_interleaved, tensor, heads)  # Llama's rope pairs neighbours
    if name.endswith("norm.weight"):
        yield lambda: tensor + 1  # Gemma's norms are stored as the difference from one
    if name.endswith("ssm_a"):
        yield lambda: -np.exp(tensor)
    for key, value in config.items():
        if key.endswith("multiplier") and isinstance(value, float) and value != 1:
            yield partial(np.multiply, tensor, np.float32(value))


def _interleaved(tensor: np.ndarray, heads: int) -> np.ndarray:
    halves = tensor.reshape(heads, 2, len(tensor) // heads // 2, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)
