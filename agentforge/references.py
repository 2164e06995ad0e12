"""``package.module:attribute``: how a table names what is imported only when it is used, because it is heavy."""

from __future__ import annotations

import importlib
from typing import Any

from agentforge.errors import UserError

Reference = str


def resolve(reference: Reference, key: str | None = None) -> Any:
    """Import what ``package.module:attribute`` names.

    Args:
        reference: the text.
        key: where a user wrote it, for the message; None: it is the program's own, and a failure is a bug.

    Raises:
        UserError: a user's reference that cannot be imported.
    """
    module, _, attribute = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        if key is None:
            raise
        raise UserError(f"{key}: {reference} cannot be imported ({error}); write it as package.module:name") from error
