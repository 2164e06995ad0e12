"""What surgery can do to a checkpoint: names, options and results of each operation. The work is in `surgery/`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agentforge.errors import UserError
from agentforge.systems.base import Operation

TAKES: dict[str, tuple[str, ...]] = {
    "graft": ("mamba",),
    "expand": ("width", "shape"),
    "slice": ("width", "shape"),
    "truncate": ("layers",),
    "order": ("rows",),
    "drop_attention": ("layers", "indices", "rows"),
}
"""What each operation takes beside `max_logit_difference`."""


def check(chosen: Any) -> None:
    """Refuse a `surgery` section whose options do not belong to its operation, or that lacks one.

    Raises:
        UserError: the sentence says what the operation takes.
    """
    takes = TAKES[chosen.operation]
    for name in chosen.model_dump(exclude_none=True, exclude={"operation", "max_logit_difference"}):
        if name not in takes:
            options = " and ".join(f"surgery.{option}" for option in takes)
            raise UserError(f"{chosen.operation} has no option surgery.{name}; it takes {options}")
    if chosen.operation == "truncate" and chosen.layers is None:
        raise UserError("truncate: set surgery.layers, the number of first layers to keep")
    if chosen.operation == "drop_attention" and (chosen.layers is None) == (chosen.indices is None):
        raise UserError("drop_attention: set either surgery.layers (how many) or surgery.indices (which)")


def _always(suffix: str) -> Callable[[Any], str]:
    return lambda chosen: suffix


def _of_slice(chosen: Any) -> str:
    if chosen.width is not None and chosen.shape is None:
        return f"width-{chosen.width.replace('/', 'of')}"
    return "sliced"


def _of_truncate(chosen: Any) -> str:
    return f"depth-{chosen.layers}"


def _operation(name: str, suffix: Callable[[Any], str], suffixes: str, reads: Any = None) -> Operation:
    return Operation(
        run=f"agentforge.systems.adamba.surgery.operations:run_{name}",
        suffix=suffix,
        suffixes=suffixes,
        reads=reads,
        check=check,
        config="agentforge.systems.adamba.surgery_shapes:operated",
    )


OPERATIONS: Mapping[str, Operation] = {
    "graft": _operation("graft", _always("grafted"), "grafted"),
    "expand": _operation("expand", _always("expanded"), "expanded"),
    "slice": _operation("slice", _of_slice, r"sliced|width-\d+of\d+"),
    "truncate": _operation("truncate", _of_truncate, r"depth-\d+"),
    "order": _operation("order", _always("ordered"), "ordered", reads="train"),
    "drop_attention": _operation("drop_attention", _always("attention-dropped"), "attention-dropped", reads="eval"),
}
