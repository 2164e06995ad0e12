"""Whether scores may stand side by side.

A score says something about a model only beside another one to which the same was asked in the same way. What was asked
(questions, tasks, seed) has to be equal, always. How it was answered (temperature, tokens, turns, template) has to be
equal too, unless the reader asks for the mixture; then the table says in which settings the models differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from agentforge.errors import UserError
from agentforge.rollouts.policies.base import Conversation, Policy

Decoding = Mapping[str, Any]

PROBES = 16
"""Prompts at most that are read to recognise a template."""
OF_SAMPLING = ("top_p", "seed")
"""Settings that decide nothing where decoding is greedy."""
UNBIASED = ("samples",)
"""Settings that change how sure a score is, and not what it measures."""


def template_of(policy: Policy, conversations: Sequence[Conversation]) -> str:
    """Return a short hash of prompts as the policy reads them, up to white space.

    Equal for models that turn the same conversations into the same text, whatever their tokenizers and file formats.
    White space is left out because some tokenizers do not give it back.
    """
    digest = hashlib.sha256()
    # Spread over all of them: the first conversations of a file are often of one kind, with the same tools.
    for one in conversations[:: max(1, -(-len(conversations) // PROBES))]:
        text = policy.decode(policy.encode(one.messages, one.tools))
        # NUL ends a prompt, so that a word that moves from one prompt to the next changes the hash.
        digest.update("".join(text.split()).encode() + b"\0")
    return digest.hexdigest()[:8]


def decisive(decoding: Decoding) -> dict[str, Any]:
    """Return the settings that change what a score measures."""
    ignored = (*UNBIASED, *(OF_SAMPLING if decoding["temperature"] == 0 else ()))
    return {name: value for name, value in decoding.items() if name not in ignored}


def differing(decodings: Sequence[Decoding]) -> dict[str, list[Any]]:
    """Return the decisive settings that are not the same everywhere, each with its values in order (None: not set)."""
    settings = [decisive(one) for one in decodings]
    names = dict.fromkeys(name for one in settings for name in one)
    values = {name: [one.get(name) for one in settings] for name in names}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}


def refuse_mixed(names: Sequence[str], decodings: Sequence[Decoding]) -> None:
    """Refuse models that did not answer in the same way.

    Args:
        names: of the evaluations, for the message.

    Raises:
        UserError: with the first setting that differs, and what to do.
    """
    for setting, values in differing(decodings).items():
        # The first that differs from the first: one sentence about two models, however many there are.
        other = next(index for index, value in enumerate(values) if value != values[0])
        raise UserError(
            f"{names[0]} was decoded with {setting} {shown(values[0])}, {names[other]} with {shown(values[other])}; "
            "evaluate one of them again with the other's settings and --replace, or compare them as they are with "
            "--mixed-decoding"
        )


def decoding_rows(decodings: Sequence[Decoding | None]) -> list[tuple[str, list[str]]]:
    """Return rows of a table: how each model was decoded, and every setting in which they differ.

    Args:
        decodings: of each column; None for what is no model.
    """
    of_models = [one for one in decodings if one is not None]
    rows = [("decoding", ["" if one is None else summary(one) for one in decodings])]
    for setting in differing(of_models) if of_models else ():
        cells = ["" if one is None else shown(one.get(setting)) for one in decodings]
        # The summary has the first two. What greedy decoding ignores is equal after all in most tables.
        if setting not in ("temperature", "max_new_tokens") and len(set(cells) - {""}) > 1:
            rows.append((setting, cells))
    return rows


def summary(decoding: Decoding) -> str:
    """Return a decoding in a few words."""
    temperature = decoding["temperature"]
    return f"{f'T={temperature:g}' if temperature else 'greedy'}, {decoding['max_new_tokens']} tokens"


def shown(value: Any) -> str:
    """Return a setting's value for a message or a table."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return "unknown" if value is None else str(value)
