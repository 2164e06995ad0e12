"""Figures stated for a recipe, checked against arithmetic and physics.

configs/claims/NAME.yaml holds them; `plan` says of each that it is correct, or why it cannot be. Those of a system,
which has several training stages, are checked in `system`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydantic import Field, ValidationError

from agentforge.errors import UserError
from agentforge.planning import constants, storage
from agentforge.planning.flops import flops_per_token, rows_per_step
from agentforge.planning.memory import USABLE, estimate_memory
from agentforge.planning.parameters import count_parameters, trained_parameters
from agentforge.planning.sizes import Shape
from agentforge.recipe.hardware import load_hardware
from agentforge.recipe.schema import Recipe, Section
from agentforge.recipe.yaml_files import config_roots, read_yaml

MAX_MFU = constants.MAX_MFU.range.high
MATMUL_CEILING = constants.MATMUL_CEILING.range.high
TOLERANCE = 0.05


class Claim(Section):
    """One statement; the fields given decide what is checked."""

    says: str = Field(description="the statement, as it was made")
    trainable: float | None = Field(None, gt=0, description="parameters")
    trainable_share: float | None = Field(None, gt=0, le=1, description="of the base's and the adapter's parameters")
    seconds_per_step: float | None = Field(None, gt=0)
    train_hours: float | None = Field(None, gt=0)
    hardware: str | None = Field(None, description="said to be enough")
    gpu_memory_gb: float | None = Field(None, gt=0, description="said to be that hardware's, in 10^9 bytes")
    rows: int | None = Field(None, gt=0, description="of the whole mix")
    parts: dict[str, int] = Field(default_factory=dict, description="rows of its parts")
    part: int | None = Field(None, gt=0, description="rows of one part")
    part_share: float | None = Field(None, gt=0, le=1, description="said to be that part's share of the mix")
    download_gb: float | None = Field(None, gt=0)
    recipe: str | None = Field(None, description="of a system: the training stage that `hours` is said of")
    hours: float | None = Field(None, gt=0, description="of a system's stage, or of all of them")
    dollars: float | None = Field(None, gt=0, description="of all of a system's stages")
    dollars_per_hour: float | None = Field(None, gt=0, description="of the whole machine")
    profile: str | None = Field(None, description="another way through the system, which `saves` dollars")
    saves: float | None = Field(None, gt=0)


class Claims(Section):
    """One file of configs/claims."""

    name: str = Field(description="the recipe's `name`")
    hardware: str = Field(description="what the figures were stated for; on other hardware they are not checked")
    claims: list[Claim]


@dataclass(frozen=True)
class Verdict:
    """What was said, and what arithmetic says.

    Attributes:
        wrong: why it cannot be right; None if it can.
        note: what to know beside it.
    """

    says: str
    wrong: str | None
    note: str | None = None


def claims_for(recipe: Recipe) -> list[Claim]:
    """Return what has been stated for a recipe of this name on its hardware.

    Raises:
        UserError: a file of configs/claims is wrong.
    """
    for path in (path for root in config_roots() for path in sorted((root / "claims").glob("*.yaml"))):
        try:
            stated = Claims.model_validate(read_yaml(path))
        except ValidationError as error:
            detail = error.errors()[0]
            raise UserError(f"{path}: {'.'.join(map(str, detail['loc']))}: {detail['msg']}") from None
        if (stated.name, stated.hardware) == (recipe.name, str(recipe.hardware)):
            return stated.claims
    return []


def check_claims(claims: list[Claim], recipe: Recipe, shape: Shape) -> list[Verdict]:
    """Return a verdict on each claim."""
    return [
        Verdict(claim.says, "; ".join(_objections(claim, recipe, shape)) or None, _epochs(claim, recipe))
        for claim in claims
    ]


def _objections(claim: Claim, recipe: Recipe, shape: Shape) -> Iterator[str]:
    checks: list[Callable[[Claim, Recipe, Shape], str | None]] = [
        _trainable, _speed, _consistent, _hardware, _parts, _share, _download,
    ]  # fmt: skip
    for check in checks:
        if objection := check(claim, recipe, shape):
            yield objection


def _differs(stated: float, true: float) -> bool:
    return abs(stated - true) > TOLERANCE * true


def _trainable(claim: Claim, recipe: Recipe, shape: Shape) -> str | None:
    trained = trained_parameters(recipe, shape)
    if claim.trainable is not None and _differs(claim.trainable, trained):
        return f"{trained:,} parameters are trained"
    share = trained / (count_parameters(shape).total + (trained if recipe.train.lora is not None else 0))
    if claim.trainable_share is not None and _differs(claim.trainable_share, share):
        return f"{share:.2%} of the parameters are trained"
    return None


def _speed(claim: Claim, recipe: Recipe, shape: Shape) -> str | None:
    """Object to a step that would take more operations a second than the hardware has."""
    steps = recipe.train.args.get("max_steps", -1)
    if (claim.seconds_per_step is None) == (claim.train_hours is None) or steps <= 0:
        return None
    seconds = claim.seconds_per_step or (claim.train_hours or 0.0) * 3600 / steps
    hardware = load_hardware(recipe.hardware)
    rate = rows_per_step(recipe) * recipe.row_length / seconds
    peak = hardware.devices * hardware.peak_flops
    useful = rate * flops_per_token(recipe, shape, recompute=False) / peak
    recomputes = estimate_memory(recipe).recomputes
    done = rate * flops_per_token(recipe, shape, recompute=recomputes) / peak
    if useful <= MAX_MFU and done <= MATMUL_CEILING:
        return None
    text = f"{seconds:.2f} s per step is {rate:,.0f} tokens per second, "
    text += f"{useful:.0%} of {hardware.name}'s peak in useful work"
    text += f" and {done:.0%} with the recomputation" if recomputes else ""
    if done > 1:
        return text
    length = _possible_length(seconds, recipe, shape)
    ceiling = f"matrix products reach {MATMUL_CEILING:.0%}"
    return f"{text}; {ceiling}. It would take unpadded rows of at most {length:,} tokens"


def _possible_length(seconds: float, recipe: Recipe, shape: Shape) -> int:
    """Return the mean tokens of a row at which a step takes ``seconds`` at the hardware's best known share."""
    hardware = load_hardware(recipe.hardware)
    flops = seconds * hardware.devices * hardware.peak_flops * hardware.mfu.high
    per_token = flops_per_token(recipe, shape, recompute=estimate_memory(recipe).recomputes)
    return int(flops / per_token / rows_per_step(recipe))


def _consistent(claim: Claim, recipe: Recipe, shape: Shape) -> str | None:
    steps = recipe.train.args.get("max_steps", -1)
    if claim.seconds_per_step is None or claim.train_hours is None or steps <= 0:
        return None
    hours = steps * claim.seconds_per_step / 3600
    if not _differs(hours, claim.train_hours):
        return None
    each = claim.train_hours * 3600 / steps
    return (
        f"{steps} x {claim.seconds_per_step:g} s = {hours:.2f} h, and {claim.train_hours:g} h = {each:.2f} s per step"
    )


def _hardware(claim: Claim, recipe: Recipe, shape: Shape) -> str | None:
    if claim.hardware is None:
        return None
    hardware = load_hardware(claim.hardware)
    objections = []
    if claim.gpu_memory_gb is not None and hardware.memory_gib < (stated := claim.gpu_memory_gb * 1e9 / 2**30):
        objections.append(f"one {hardware.gpu} has {hardware.memory_gib:g} GiB, not {stated:.0f}")
    there = recipe.model_copy(update={"hardware": claim.hardware})
    if not (memory := estimate_memory(there, "ddp")).fits(gradient_checkpointing=True):
        needed = memory.total(gradient_checkpointing=True) / 2**30
        usable = USABLE * hardware.memory_gib
        objections.append(f"the run needs {needed:.1f} GiB even with recomputation, but only {usable:.1f} are usable")
    return " and ".join(objections) or None


def _epochs(claim: Claim, recipe: Recipe) -> str | None:
    """Note that the steps do not get through a mix of the stated size once."""
    steps = recipe.train.args.get("max_steps", -1)
    if claim.rows is None or claim.parts or claim.part or steps <= 0:
        return None
    seen = steps * rows_per_step(recipe)
    epochs = seen / (claim.rows * (1 - recipe.data.eval_fraction))
    return (
        None
        if epochs >= 1
        else f"{steps} steps see {seen:,} rows, {epochs:.2f} of one epoch unless the rows are packed"
    )


def _parts(claim: Claim, recipe: Recipe, shape: Shape) -> str | None:
    if claim.rows is None or not claim.parts or not _differs(total := sum(claim.parts.values()), claim.rows):
        return None
    return f"the parts add up to {total:,} rows"


def _share(claim: Claim, recipe: Recipe, shape: Shape) -> str | None:
    if claim.rows is None or claim.part is None or claim.part_share is None:
        return None
    share = claim.part / claim.rows
    if not _differs(share, claim.part_share):
        return None
    repeats = claim.part_share * claim.rows / claim.part
    said = f"{claim.part:,} of {claim.rows:,} rows are {share:.2%}"
    return f"{said}; {claim.part_share:.0%} would repeat each row {repeats:.0f} times"


def _download(claim: Claim, recipe: Recipe, shape: Shape) -> str | None:
    if claim.download_gb is None:
        return None
    data = storage.total(storage.data_items(recipe)) / 1e9
    base = storage.base_item(recipe, shape)
    if not _differs(claim.download_gb, data):
        return None
    rest = f", and the base is {base.size / 1e9:.1f} GB more" if base and base.size else ""
    return f"the registered data sets are {data:.1f} GB{rest}"
