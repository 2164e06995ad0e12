"""What `prepare` rejects, row by row. A filter returns the reason, which is counted, or None."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from agentforge.data.row_text import Row, assistant_text
from agentforge.recipe.schema import Filters


def effective_filters(recipe: Filters, registry: Filters | None, source: Filters | None) -> Filters:
    """Return the recipe's filters, overridden by the source's; if the source has none, by the registry's."""
    over = source if source is not None else registry
    if over is None:
        return recipe
    return recipe.model_copy(update={name: getattr(over, name) for name in over.model_fields_set})


class RowFilter:
    """The filters of one source, compiled.

    Args:
        filters: what to reject.
        columns: the source's renamed columns; the language is in ``columns["language"]``.
    """

    def __init__(self, filters: Filters, columns: Mapping[str, str]) -> None:
        self.filters = filters
        self._language = columns.get("language", "language")
        self._languages = {language.casefold() for language in filters.languages}
        self._where = {key: value if isinstance(value, list) else [value] for key, value in filters.where.items()}
        self._identity = _identity_pattern(filters.identities)

    @property
    def columns(self) -> set[str]:
        """Columns that a raw row is judged by."""
        return {*self._where, *([self._language] if self._languages else [])}

    def reject_raw(self, raw: Mapping[str, Any]) -> str | None:
        """Judge a raw row, before its columns are dropped."""
        if self._languages and str(raw.get(self._language, "")).casefold() not in self._languages:
            return "language"
        for column, allowed in self._where.items():
            if raw.get(column) not in allowed:
                return f"where {column}"
        return None

    def reject(self, row: Row) -> str | None:
        """Judge a row of messages or text."""
        messages = row.get("messages", ())
        spoken = assistant_text(row)
        # At least one character, whatever the filter says: an assistant who says nothing teaches nothing.
        if len(spoken) < max(self.filters.min_characters, 1):
            return "too short"
        if self.filters.max_turns is not None and _turns(messages) > self.filters.max_turns:
            return "too many turns"
        if self._identity is not None and self._identity.search(spoken):
            return "foreign identity"
        return None


def _turns(messages: list[dict[str, Any]]) -> int:
    return sum(message["role"] != "system" for message in messages)


def _identity_pattern(names: list[str]) -> re.Pattern[str] | None:
    """Match a speaker who calls itself by, or says it was made by, one of the names; not one who talks about them."""
    if not names:
        return None
    name = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    # Matches "I am NAME", "as an AI model made by NAME", "trained by NAME", but not "NAME is a company".
    article = r"(?:an?\s+|the\s+)?"
    described = rf"{article}(?:[\w-]+\s+){{0,4}}?(?:(?:called|named|by|from|at)\s+)?"
    return re.compile(
        rf"(?:\b(?:I\s+am|I['\u2019]m|I\s+was|my\s+name\s+is|as|call\s+me|this\s+is)\s+{described}(?:{name})\b"
        rf"|\b(?:trained|created|made|developed|built)\s+by\s+(?:{name})\b)",
        re.IGNORECASE,
    )
