"""`train.trainable`: patterns of parameters' names."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from agentforge.errors import UserError, did_you_mean


def matching(names: Sequence[str], patterns: Sequence[str]) -> set[str]:
    """Return the names that one of the patterns fits.

    Raises:
        UserError: a pattern fits none.
    """
    found = set()
    for pattern in patterns:
        # `*` runs over dots too: `*.mlp.*` fits `model.layers.0.mlp.up_proj.weight`.
        fitting = {name for name in names if fnmatchcase(name, pattern)}
        if not fitting:
            words = sorted({word for name in names for word in name.split(".") if not word.isdigit()})
            hint = did_you_mean(pattern.strip("*."), words)
            raise UserError(f"train.trainable: no parameter matches '{pattern}'{hint}")
        found |= fitting
    return found
