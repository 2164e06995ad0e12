"""`surgery branch`: one trunk becomes a specialisation: how long it thinks, and how large its memory is.

All branches come from one trunk, not from three seeds: so they stay close enough to be merged later, and what makes
them different is what they are trained and set to, not where they started.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

import torch

from agentforge.errors import UserError
from agentforge.models.checkpoint import Checkpoint
from agentforge.models.proof import compare, load, logits_of, proof_rows
from agentforge.models.surgery import Job
from agentforge.recipe.section import keys_of
from agentforge.systems.cognate.checkpoint_types import is_cognate
from agentforge.systems.cognate.modeling.configuration import parameter_count
from agentforge.systems.cognate.modeling.modeling import CognateForCausalLM
from agentforge.systems.cognate.operations import Wanted, wanted
from agentforge.systems.cognate.recipe_sections import Branch, CognateSurgery
from agentforge.systems.cognate.surgery.resize import memories_of, with_more_heads
from agentforge.systems.cognate.surgery.smaller_memory import Cost, Trunk

log = logging.getLogger(__name__)


def run_branch(job: Job) -> dict[str, Any]:
    """Write the branch, and return its proof and what it is.

    A branch with as much memory or more computes what the trunk computes at the same exit threshold. One with less
    computes something else; what that costs is measured on eval rows, and the proof says that the file holds it.

    Raises:
        UserError: the trunk is no Cognate, or has no such memory.
        CheckRefused: the proof failed.
    """
    if not is_cognate(Checkpoint(job.base).config):
        raise UserError(f"branch: {job.base} is not a Cognate; give the trunk that `agentforge train` made")
    chosen = keys_of(job.chosen, CognateSurgery).branch
    assert chosen is not None
    # In float64. A loop feeds its own rounding back to itself: in float32 a branch that computes exactly the same with
    # more heads, in matrix products of another shape, is off by as much as a small mistake would be.
    trunk = load(job.base, torch.float64)
    sizes = wanted(chosen, trunk.config.to_dict())
    threshold = trunk.config.exit_threshold if sizes.exit_threshold is None else sizes.exit_threshold
    _check_threshold(trunk, threshold)
    trunk.config.exit_threshold = threshold
    branch, costs = _resized(job, trunk, sizes, chosen)
    branch.config.specialisation = sizes.name
    larger = not costs
    _write(job, branch)
    rows = proof_rows(job.base, trunk.config.vocab_size, job.recipe.seed)
    proof = compare(_said(trunk if larger else branch, rows), _said(load(job.target, torch.float64), rows),
                    job.chosen.max_logit_difference if larger else 0.0)  # fmt: skip
    return {
        "branch": _described(branch, sizes.name),
        "proof": proof.as_dict(),
        **({"costs": [asdict(cost) for cost in costs]} if costs else {}),
    }


def _check_threshold(trunk: CognateForCausalLM, threshold: float | None) -> None:
    if threshold is not None and not trunk.config.halts:
        raise UserError(
            f"branch: the trunk has no halting head (halting: {trunk.config.halting}, "
            f"max_recursions: {trunk.config.max_recursions}), so no exit threshold can end its thinking"
        )


def _resized(
    job: Job, trunk: CognateForCausalLM, sizes: Wanted, chosen: Branch
) -> tuple[CognateForCausalLM, list[Cost]]:
    """Return the branch in memory, and of a smaller memory what it costs."""
    config = trunk.config
    having = memories_of(config)
    layers = having if sizes.memory_layers is None else sorted(set(sizes.memory_layers))
    if extra := [layer for layer in layers if layer not in having]:
        raise UserError(
            f"surgery.branch.memory_layers: layer {extra[0]} of the trunk has no memory; it has them in "
            f"{', '.join(map(str, having)) or 'no layer'}"
        )
    heads = config.memory_heads if sizes.memory_heads is None else sizes.memory_heads
    if not sizes.halve and layers == having and heads >= config.memory_heads:
        return with_more_heads(trunk, heads, job.recipe.seed), []
    measured = Trunk(_to_measure(trunk), job.measuring_rows(chosen.rows))
    if sizes.halve:
        branch, costs = measured.halved()
        return branch.cpu(), costs
    branch = trunk
    costs = []
    if layers != having:
        branch = measured.with_layers(layers)
        costs.append(measured.cost(f"memories in layers {', '.join(map(str, layers)) or 'none'}", branch))
    if heads > config.memory_heads:
        branch = with_more_heads(branch.cpu(), heads, job.recipe.seed)
    elif heads < config.memory_heads and layers:
        branch = Trunk(branch, measured.rows.ids).with_fewer_heads(heads)
        costs.append(measured.cost(f"{heads} of {config.memory_heads} heads", branch))
    return branch.cpu(), costs


def _to_measure(model: Any) -> Any:
    """Return the model in float32, on a GPU if there is one."""
    return model.to("cuda" if torch.cuda.is_available() else "cpu", torch.float32)


def _write(job: Job, branch: Any) -> None:
    """Write the checkpoint with tensors as wide as the trunk's; what does not fit is rounded, in the branch too."""
    dtype = Checkpoint(job.base).config.get("dtype")
    kept = getattr(torch, dtype) if isinstance(dtype, str) else torch.float32
    branch.to(kept).save_pretrained(job.target)
    branch.to(torch.float64)


def _said(model: CognateForCausalLM, rows: list[list[int]]) -> list[torch.Tensor]:
    """Return the logits of rows twice: with all steps, and with tokens that stop as they would in use."""
    model = model.cpu()
    with torch.inference_mode():
        full = [model(input_ids=torch.tensor([row]), use_cache=False, exit_threshold=None).logits[0] for row in rows]
    return full + logits_of(model, rows)


def _described(branch: CognateForCausalLM, name: str) -> dict[str, Any]:
    config = branch.config
    return {
        "specialisation": name,
        "exit_threshold": config.exit_threshold,
        "memory_heads": config.memory_heads,
        "memory_layers": memories_of(config),
        "parameters": parameter_count(config),
    }
