"""`surgery`: one operation on a checkpoint, and the proof that it did what it says before the result is published."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agentforge.artifacts import stage_directory
from agentforge.data.store import load_prepared
from agentforge.data.tokenizer import BATTERY
from agentforge.errors import UserError
from agentforge.models.auto import AutoConfig, model_class
from agentforge.models.build import identify_base
from agentforge.models.checkpoint import Checkpoint, checkpoint_directory
from agentforge.models.checkpoint_files import TOKENIZER_FILES, copy_present
from agentforge.models.history import check_history
from agentforge.recipe.schema import GraftedMamba, Recipe, Surgery
from agentforge.systems.adamba.modeling.shape import Shape
from agentforge.systems.adamba.surgery.carried_exits import carry_exits
from agentforge.systems.adamba.surgery.drop_attention import choose_layers, drop_attention
from agentforge.systems.adamba.surgery.expand import expand
from agentforge.systems.adamba.surgery.graft import MambaSizes, graft
from agentforge.systems.adamba.surgery.importance import check_orderable, descending, measure, order_checkpoint
from agentforge.systems.adamba.surgery.nanochat_graft import graft_nanochat, is_nanochat, reference
from agentforge.systems.adamba.surgery.proof import (
    ROW_LENGTH,
    checkpoint_logits,
    compare,
    logits_of,
    prove,
    random_rows,
    streamed_logits,
)
from agentforge.systems.adamba.surgery.slicing import slice_checkpoint, sliced
from agentforge.systems.adamba.surgery.streaming import read_config

log = logging.getLogger(__name__)

OPTIONS: dict[str, tuple[str, ...]] = {
    "graft": ("mamba",),
    "expand": ("width", "shape"),
    "slice": ("width", "shape"),
    "truncate": ("layers",),
    "order": ("rows",),
    "drop_attention": ("layers", "indices", "rows"),
}
"""What each operation takes beside `max_logit_difference`."""
MEASURED_ON = {"order": "train", "drop_attention": "eval"}
"""Operations that read prepared data, and which of it."""
DEFAULT_ROWS = 64


@dataclass(frozen=True)
class Job:
    """One operation: where the old checkpoint is, where the new one goes, and what the recipe says."""

    recipe: Recipe
    chosen: Surgery
    base: Path
    target: Path

    def proof_rows(self) -> list[list[int]]:
        """Return random rows, and one of text that breaks tokenizers if the base has one."""
        vocabulary = int(Checkpoint(self.target).config["vocab_size"])
        rows = random_rows(vocabulary, self.recipe.seed)
        if (self.base / "tokenizer_config.json").is_file():
            from transformers import AutoTokenizer

            text = AutoTokenizer.from_pretrained(self.base).encode("\n".join(BATTERY), add_special_tokens=False)
            rows.append(text[: 2 * ROW_LENGTH])
        return rows

    def measured_model(self) -> Any:
        """Return the old model to run on rows: on a GPU in the recipe's dtype, on a CPU in float32."""
        on_gpu = torch.cuda.is_available()
        dtype = getattr(torch, self.recipe.model.dtype) if on_gpu else torch.float32
        model = model_class(self.base).from_pretrained(self.base, dtype=dtype)
        return model.to("cuda" if on_gpu else "cpu").eval()

    def measuring_rows(self) -> list[list[int]]:
        """Return rows of the recipe's prepared data."""
        split = MEASURED_ON[self.chosen.operation]
        data = load_prepared(self.recipe.artifact("data"))[split]
        rows = [list(row) for row in data[: self.chosen.rows or DEFAULT_ROWS]["input_ids"] if len(row) > 1]
        if not rows:
            raise UserError(
                f"{self.recipe.artifact('data')} has no {split} rows to measure on; raise data.eval_fraction"
            )
        return rows

    def carry_exits(self, *, same: bool, channels: Tensor | None = None) -> dict[str, Any]:
        """Take the exit gates along; what had to be left out is said, here and in the manifest."""
        old, new = read_config(self.base), read_config(self.target)
        left_out = carry_exits(self.base, self.target, old, new, same=same, channels=channels)
        if left_out is None:
            return {}
        log.info("%s", left_out)
        return {"exits": left_out}

    def shape(self) -> Shape:
        """Return the sizes that the recipe asks for: the width's, with those of `surgery.shape` in their place.

        Raises:
            UserError: neither is given, or the width gives sizes that are no whole numbers.
        """
        chosen, shape = self.chosen, Shape.of(read_config(self.base))
        if chosen.width is None and chosen.shape is None:
            raise UserError(f"{chosen.operation}: give surgery.width (such as 1/2 or 5/4) or sizes in surgery.shape")
        if chosen.width is not None:
            shape = shape.scaled(_share(chosen.width))
        given = chosen.shape.model_dump(exclude_none=True) if chosen.shape else {}
        return dataclasses.replace(shape, **given)


def surgery(recipe: Recipe, replace: bool = False) -> Path:
    """Make the checkpoint that `surgery.operation` makes of `model.path`.

    Returns:
        the artefact `Recipe.operated`: a checkpoint with its tokenizer; its manifest's metrics hold the proof.

    Raises:
        UserError: the recipe asks for what cannot be made.
        CheckRefused: the proof failed, the base's tensors are not those of its config, or it is of another phase.
    """
    chosen = _checked(recipe)
    assert recipe.model.path is not None
    base = checkpoint_directory(recipe.model.path, recipe.model.revision)
    settings = {
        "model": recipe.model.model_dump(include={"path", "revision"}),
        "surgery": chosen.model_dump(exclude_none=True),
        "seed": recipe.seed,
    }
    inputs: dict[str, Path | str] = {"base": identify_base(recipe.model)}
    if chosen.operation in MEASURED_ON:
        inputs["data"] = recipe.artifact("data")
    with stage_directory(recipe.operated, stage="surgery", recipe=settings, inputs=inputs, replace=replace) as work:
        if not work.done:
            work.metrics = {
                "operation": chosen.operation,
                **OPERATIONS[chosen.operation](Job(recipe, chosen, base, work.path)),
            }
            copy_present(base, work.path, (*TOKENIZER_FILES, "generation_config.json"))
    return work.target


def _checked(recipe: Recipe) -> Surgery:
    chosen = recipe.surgery
    if chosen is None:
        raise UserError("the recipe has no `surgery:` section; add one with an operation such as graft")
    if recipe.model.path is None:
        raise UserError(f"surgery {chosen.operation}: set model.path to the checkpoint that is operated on")
    check_history(recipe.model)
    given = chosen.model_dump(exclude_none=True, exclude={"operation", "max_logit_difference"})
    for name in given:
        if name not in OPTIONS[chosen.operation]:
            takes = " and ".join(f"surgery.{option}" for option in OPTIONS[chosen.operation])
            raise UserError(f"surgery.{name} means nothing to {chosen.operation}, which takes {takes}")
    if chosen.operation == "truncate" and chosen.layers is None:
        raise UserError("truncate: give surgery.layers, how many of the first layers stay")
    if chosen.operation == "drop_attention" and (chosen.layers is None) == (chosen.indices is None):
        raise UserError("drop_attention: give surgery.layers (how many) or surgery.indices (which), and not both")
    return chosen


def _share(width: str) -> Fraction:
    try:
        share = Fraction(width)
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if share <= 0:
        raise UserError(f"surgery.width is '{width}'; give a fraction such as '1/2' or '5/4'")
    return share


def _graft(job: Job) -> dict[str, Any]:
    given = job.chosen.mamba or GraftedMamba()
    sizes = MambaSizes(**given.model_dump())
    if not is_nanochat(job.base):
        graft(job.base, job.target, sizes, job.recipe.seed)
        return {"proof": prove(job.base, job.target, job.proof_rows(), bound=0.0).as_dict()}
    graft_nanochat(job.base, job.target, sizes, job.recipe.seed)
    rows = job.proof_rows()
    old = logits_of(reference(job.base), rows)
    return {"proof": compare(old, checkpoint_logits(job.target, rows), job.chosen.max_logit_difference).as_dict()}


def _expand(job: Job) -> dict[str, Any]:
    shape = job.shape()
    expand(job.base, job.target, shape, job.recipe.seed)
    proof = prove(job.base, job.target, job.proof_rows(), job.chosen.max_logit_difference)
    return {"shape": dataclasses.asdict(shape), "proof": proof.as_dict(), **job.carry_exits(same=True)}


def _slice(job: Job) -> dict[str, Any]:
    return _cut_out(job, job.shape())


def _truncate(job: Job) -> dict[str, Any]:
    assert job.chosen.layers is not None
    whole = Shape.of(read_config(job.base))
    return _cut_out(job, dataclasses.replace(whole, num_hidden_layers=job.chosen.layers))


def _cut_out(job: Job, shape: Shape) -> dict[str, Any]:
    """Write a slice, and prove it against the part of the whole model that it is: the very same logits."""
    slice_checkpoint(job.base, job.target, shape)
    rows = job.proof_rows()
    _, tensor, _ = sliced(job.base, shape)
    inside = streamed_logits(AutoConfig.from_pretrained(job.target), tensor, rows)
    proof = compare(inside, checkpoint_logits(job.target, rows), bound=0.0)
    return {"shape": dataclasses.asdict(shape), "proof": proof.as_dict(), **job.carry_exits(same=False)}


def _order(job: Job) -> dict[str, Any]:
    check_orderable(job.base, read_config(job.base))
    rows = job.measuring_rows()
    importance = measure(job.measured_model(), rows)
    order_checkpoint(job.base, job.target, importance)
    proof = prove(job.base, job.target, job.proof_rows(), job.chosen.max_logit_difference)
    carried = job.carry_exits(same=True, channels=descending(importance.channels))
    return {"rows": len(rows), "proof": proof.as_dict(), **carried}


def _drop_attention(job: Job) -> dict[str, Any]:
    layers = job.chosen.layers if job.chosen.indices is None else job.chosen.indices
    assert layers is not None
    rows = job.measuring_rows()
    cost = choose_layers(job.measured_model(), rows, layers)
    drop_attention(job.base, job.target, cost.dropped)
    log.info("attention dropped in layers %s: loss %.4f -> %.4f", cost.dropped, cost.before, cost.after)
    return {"rows": len(rows), "cost": cost.as_dict(), **job.carry_exits(same=False)}


OPERATIONS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "graft": _graft,
    "expand": _expand,
    "slice": _slice,
    "truncate": _truncate,
    "order": _order,
    "drop_attention": _drop_attention,
}
