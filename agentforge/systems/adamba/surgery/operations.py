"""The operations of `surgery` on an Adamba: each writes its checkpoint and the proof that it did what it says."""

from __future__ import annotations

import dataclasses
import logging
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from agentforge.errors import UserError
from agentforge.models.auto import load_config, model_class
from agentforge.models.checkpoint import Checkpoint
from agentforge.models.proof import compare, logits_of, proof_rows
from agentforge.models.surgery import Job
from agentforge.recipe.section import keys_of
from agentforge.systems.adamba.modeling.shape import AdambaShape
from agentforge.systems.adamba.recipe_sections import AdambaSurgery, GraftedMamba
from agentforge.systems.adamba.surgery.carried_exits import carry_exits
from agentforge.systems.adamba.surgery.drop_attention import choose_layers, drop_attention
from agentforge.systems.adamba.surgery.expand import expand
from agentforge.systems.adamba.surgery.graft import MambaSizes, graft
from agentforge.systems.adamba.surgery.importance import check_orderable, descending, measure, order_checkpoint
from agentforge.systems.adamba.surgery.nanochat_graft import graft_nanochat, is_nanochat, reference
from agentforge.systems.adamba.surgery.proof import checkpoint_logits, prove, streamed_logits
from agentforge.systems.adamba.surgery.slicing import slice_checkpoint, sliced
from agentforge.systems.adamba.surgery.streaming import read_config

log = logging.getLogger(__name__)

DEFAULT_ROWS = 64


def _chosen(job: Job) -> AdambaSurgery:
    return keys_of(job.chosen, AdambaSurgery)


def _rows(job: Job) -> list[list[int]]:
    return proof_rows(job.base, int(Checkpoint(job.target).config["vocab_size"]), job.recipe.seed)


def measured_model(job: Job) -> Any:
    """Return the old model to run on rows: on a GPU in the recipe's dtype, on a CPU in float32."""
    on_gpu = torch.cuda.is_available()
    dtype = getattr(torch, job.recipe.model.dtype) if on_gpu else torch.float32
    model = model_class(job.base).from_pretrained(job.base, dtype=dtype)
    return model.to("cuda" if on_gpu else "cpu").eval()


def _carry_exits(job: Job, *, same: bool, channels: Tensor | None = None) -> dict[str, Any]:
    """Take the exit gates along; what had to be left out is said, here and in the manifest."""
    old, new = read_config(job.base), read_config(job.target)
    left_out = carry_exits(job.base, job.target, old, new, same=same, channels=channels)
    if left_out is None:
        return {}
    log.info("%s", left_out)
    return {"exits": left_out}


def _wanted_shape(job: Job) -> AdambaShape:
    """Return the sizes that the recipe asks for: the width's, with those of `surgery.shape` in their place.

    Raises:
        UserError: neither is given, or the width gives sizes that are no whole numbers.
    """
    chosen, shape = _chosen(job), AdambaShape.of(read_config(job.base))
    if chosen.width is None and chosen.shape is None:
        raise UserError(f"{job.chosen.operation}: set surgery.width (such as 1/2 or 5/4) or sizes in surgery.shape")
    if chosen.width is not None:
        shape = shape.scaled(_share(chosen.width))
    given = chosen.shape.model_dump(exclude_none=True) if chosen.shape else {}
    return dataclasses.replace(shape, **given)


def _share(width: str) -> Fraction:
    try:
        share = Fraction(width)
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if share <= 0:
        raise UserError(f"surgery.width is '{width}'; give a fraction such as '1/2' or '5/4'")
    return share


def run_graft(job: Job) -> dict[str, Any]:
    given = _chosen(job).mamba or GraftedMamba()
    sizes = MambaSizes(**given.model_dump())
    if not is_nanochat(job.base):
        graft(job.base, job.target, sizes, job.recipe.seed)
        return {"proof": prove(job.base, job.target, _rows(job), bound=0.0).as_dict()}
    graft_nanochat(job.base, job.target, sizes, job.recipe.seed)
    rows = _rows(job)
    old = logits_of(reference(job.base), rows)
    return {"proof": compare(old, checkpoint_logits(job.target, rows), job.chosen.max_logit_difference).as_dict()}


def run_expand(job: Job) -> dict[str, Any]:
    shape = _wanted_shape(job)
    expand(job.base, job.target, shape, job.recipe.seed)
    proof = prove(job.base, job.target, _rows(job), job.chosen.max_logit_difference)
    return {"shape": dataclasses.asdict(shape), "proof": proof.as_dict(), **_carry_exits(job, same=True)}


def run_slice(job: Job) -> dict[str, Any]:
    return _cut_out(job, _wanted_shape(job))


def run_truncate(job: Job) -> dict[str, Any]:
    layers = _chosen(job).layers
    assert layers is not None
    whole = AdambaShape.of(read_config(job.base))
    return _cut_out(job, dataclasses.replace(whole, num_hidden_layers=layers))


def _cut_out(job: Job, shape: AdambaShape) -> dict[str, Any]:
    """Write a slice, and prove it against the part of the whole model that it is: the very same logits."""
    slice_checkpoint(job.base, job.target, shape)
    rows = _rows(job)
    _, tensor, _ = sliced(job.base, shape)
    inside = streamed_logits(load_config(job.target), tensor, rows)
    proof = compare(inside, checkpoint_logits(job.target, rows), bound=0.0)
    return {"shape": dataclasses.asdict(shape), "proof": proof.as_dict(), **_carry_exits(job, same=False)}


def run_order(job: Job) -> dict[str, Any]:
    check_orderable(job.base, read_config(job.base))
    rows = job.measuring_rows(_chosen(job).rows or DEFAULT_ROWS)
    importance = measure(measured_model(job), rows)
    order_checkpoint(job.base, job.target, importance)
    proof = prove(job.base, job.target, _rows(job), job.chosen.max_logit_difference)
    carried = _carry_exits(job, same=True, channels=descending(importance.channels))
    return {"rows": len(rows), "proof": proof.as_dict(), **carried}


def run_drop_attention(job: Job) -> dict[str, Any]:
    layers = _chosen(job).layers if _chosen(job).indices is None else _chosen(job).indices
    assert layers is not None
    rows = job.measuring_rows(_chosen(job).rows or DEFAULT_ROWS)
    cost = choose_layers(measured_model(job), rows, layers)
    drop_attention(job.base, job.target, cost.dropped)
    log.info("attention dropped in layers %s: loss %.4f -> %.4f", cost.dropped, cost.before, cost.after)
    return {"rows": len(rows), "cost": cost.as_dict(), **_carry_exits(job, same=False)}
