"""LoRA adapters as exact weight changes: ``W' = W + sum_i w_i * scale_i * B_i A_i`` in float32.

Several adapters are summed as full changes. Adding their factors instead, ``(sum B_i)(sum A_i)``, brings in the cross
terms ``B_i A_j``, and weighting both factors of a pair squares the weight.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from agentforge.errors import CheckRefused, UserError
from agentforge.models.checkpoint import Checkpoint

WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
FACTOR = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(\.weight)?"
)
TOKEN_ROWS = re.compile(r"(?P<module>.+)\.token_adapter\.trainable_tokens_delta")
REPLACEMENT = re.compile(r"(?P<module>.+?)(\.token_adapter)?(\.base_layer)?\.(?P<parameter>weight|bias)")
PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")  # the others rewrite the base's weights


@dataclass(frozen=True)
class LowRank:
    """One adapter's change of one matrix.

    Attributes:
        factors: the adapter's tensors: `a` (r, in), `b` (out, r), and `magnitude` (out,) for DoRA.
        scale: weight of the adapter x alpha / r (or / sqrt(r) with rsLoRA).
        transposed: the matrix is stored (in, out), as embeddings and GPT-2's Conv1D are.
    """

    adapter: Checkpoint
    factors: Mapping[str, str]
    scale: float
    transposed: bool

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        """Return what is to be added to ``weight`` (float32, its own shape)."""
        change = self.scale * (self._factor("b") @ self._factor("a"))
        if "magnitude" in self.factors:  # DoRA, arXiv:2402.09353, eq. 5: rows rescaled to the learned magnitude
            matrix = weight.T if self.transposed else weight
            directed = matrix + change
            norm = directed.norm(dim=1, keepdim=True)
            change = self._factor("magnitude")[:, None] / norm * directed - matrix
        return change.T if self.transposed else change

    def _factor(self, part: str) -> torch.Tensor:
        return self.adapter.read(self.factors[part]).float()

    def shape(self) -> tuple[int, int]:
        """The shape of the matrix it changes."""
        rows, columns = (self.adapter.tensors[self.factors[p]].shape[i] for p, i in (("b", 0), ("a", 1)))
        return (columns, rows) if self.transposed else (rows, columns)


@dataclass
class Change:
    """Everything that adapters do to one tensor: a trained replacement, single trained rows, low-rank additions.

    Attributes:
        rows: numbers of the rows that are replaced, and the tensor that holds them in this order.
    """

    replacement: tuple[Checkpoint, str] | None = None
    rows: tuple[list[int], Checkpoint, str] | None = None
    additions: list[LowRank] = field(default_factory=list)

    def apply(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the new tensor in float32."""
        start = self.replacement[0].read(self.replacement[1]).float() if self.replacement else weight.float()
        if self.rows is not None:
            numbers, file, key = self.rows
            # Rows that neither the base nor the adapter has do not exist: the new ones are all trained.
            grown = start.new_zeros(self.shape(tuple(start.shape)))
            grown[: len(start)] = start
            grown[numbers] = file.read(key).float()
            start = grown
        total = start
        for addition in self.additions:
            # Each change is computed from the same weight, so the order of the adapters does not matter.
            total = total + addition.delta(start)
        return total

    def shape(self, old: tuple[int, ...]) -> tuple[int, ...]:
        """The new tensor's shape; only the first dimension (a grown vocabulary) may differ from ``old``."""
        if self.replacement:
            old = self.replacement[0].tensors[self.replacement[1]].shape
        return (max(old[0], *(number + 1 for number in self.rows[0])), *old[1:]) if self.rows else old

    @property
    def replaces(self) -> bool:
        """Whether trained values stand where the base's were, so that a sum with others has no meaning."""
        return self.replacement is not None or self.rows is not None


@dataclass(frozen=True)
class LoraAdapter:
    """A PEFT LoRA directory and the weight it enters with."""

    directory: Path
    weight: float = 1.0

    def config(self) -> dict[str, Any]:
        """adapter_config.json, refused where it asks for something that cannot be merged exactly."""
        path = self.directory / "adapter_config.json"
        if not path.is_file():
            raise UserError(f"{self.directory} has no adapter_config.json: it is not a PEFT adapter")
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if (kind := config.get("peft_type")) != "LORA":
            raise CheckRefused(f"{path}: peft_type is {kind}; only LORA adapters can be merged")
        if config.get("init_lora_weights", True) not in PLAIN_STARTS:
            start = config["init_lora_weights"]
            raise CheckRefused(
                f"{path}: init_lora_weights '{start}' changes the base's weights; convert it to plain LoRA first"
            )
        for key in ("layer_replication", "target_parameters", "alora_invocation_tokens"):
            if config.get(key):
                raise CheckRefused(f"{path}: an adapter with {key} cannot be merged shard by shard")
        return config

    def changes(self) -> dict[str, Change]:
        """Return base tensor name to the change this adapter makes there.

        Raises:
            CheckRefused: a tensor of the file is of a kind that is not known: nothing is left out silently.
        """
        config = self.config()
        file = Checkpoint(self.directory, WEIGHTS_FILE)
        factors: dict[str, dict[str, str]] = {}
        changes: dict[str, Change] = {}
        for key in file.tensors:
            # `base_model.model.model.layers.0.mlp.up_proj.lora_A.weight`: module
            # `model.layers.0.mlp.up_proj`, part `lora_A`.
            name = key.removeprefix(PREFIX)
            if match := FACTOR.fullmatch(name):
                factors.setdefault(match["module"], {})[match["part"]] = key
            elif match := TOKEN_ROWS.fullmatch(name):
                change = changes.setdefault(f"{match['module']}.weight", Change())
                change.rows = (self._row_numbers(match["module"], file.tensors[key].shape, config), file, key)
            elif (match := REPLACEMENT.fullmatch(name)) and "lora_" not in name:
                changes.setdefault(f"{match['module']}.{match['parameter']}", Change()).replacement = (file, key)
            else:
                raise CheckRefused(f"{self.directory}: tensors like {key} cannot be merged")
        for module, parts in factors.items():
            # The weight may be replaced as a whole too (a grown vocabulary); the factors then add to the replacement.
            low_rank = self._low_rank(module, parts, file, config)
            changes.setdefault(f"{module}.weight", Change()).additions.append(low_rank)
        return changes

    def _row_numbers(self, module: str, shape: tuple[int, ...], config: Mapping[str, Any]) -> list[int]:
        """Return the rows that PEFT's `trainable_token_indices` trains in a module, in the order of the tensor."""
        chosen = config.get("trainable_token_indices") or {}
        if isinstance(chosen, dict):
            # A head that is tied to the embedding has its rows, and no entry of its own.
            own = (rows for name, rows in chosen.items() if module == name or module.endswith(f".{name}"))
            chosen = next(own, next(iter(chosen.values()), []))
        if not chosen or shape[0] != len(chosen):
            raise CheckRefused(
                f"{self.directory}: {module} has {shape[0]} trained rows, but adapter_config.json names {len(chosen)}"
            )
        return list(chosen)

    def _low_rank(self, module: str, parts: dict[str, str], file: Checkpoint, config: Mapping[str, Any]) -> LowRank:
        embedding = "lora_embedding_A" in parts
        infix = "lora_embedding_" if embedding else "lora_"
        named = {"a": f"{infix}A", "b": f"{infix}B", "magnitude": "lora_magnitude_vector"}
        found = {role: parts[part] for role, part in named.items() if part in parts}
        if lacking := [named[role] for role in ("a", "b") if role not in found]:
            raise CheckRefused(f"{self.directory}: {module} has no {lacking[0]}; the adapter is incomplete")
        if any(len(file.tensors[found[role]].shape) != 2 for role in ("a", "b")):
            raise CheckRefused(f"{self.directory}: {module} is not a matrix (a convolution?), so it cannot be merged")
        if "magnitude" in found and (embedding or self.weight != 1):
            raise CheckRefused(
                f"{self.directory}: DoRA can be merged only with weight 1 and on linear layers ({module})"
            )
        rank = file.tensors[found["a"]].shape[0]
        # The scale is alpha / r: with a config that was edited after training, the merge would be off by a factor.
        if rank != (said := _pattern(config.get("rank_pattern"), module, config["r"])):
            raise CheckRefused(f"{self.directory}: {module} has rank {rank}, but adapter_config.json says {said}")
        alpha = _pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        transposed = embedding or bool(config.get("fan_in_fan_out"))
        return LowRank(file, found, self.weight * scale, transposed)


def _pattern(patterns: Mapping[str, float] | None, module: str, default: float) -> float:
    # PEFT's rule (peft.utils.other.get_pattern_key): the first pattern that matches the end of the module's name
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def combine(adapters: list[LoraAdapter]) -> dict[str, Change]:
    """Return the sum of several adapters' changes.

    Raises:
        CheckRefused: a sum that has no exact meaning: DoRA or trained modules beside other adapters.
    """
    if len(adapters) == 1:
        return adapters[0].changes()
    total: dict[str, Change] = {}
    for adapter in adapters:
        for name, change in adapter.changes().items():
            if change.replaces or any("magnitude" in part.factors for part in change.additions):
                what = "replaces" if change.replaces else "is DoRA on"
                raise CheckRefused(f"{adapter.directory} {what} {name}: it can only be merged alone, not in a sum")
            total.setdefault(name, Change()).additions.extend(change.additions)
    return total
