"""A chat template that can be asked for text, whoever wrote it and wherever it is stored."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from agentforge.data.messages import BadRow, Message

GENERATION_TAG = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
OURS = "{#- The one chat template of agentforge:"
"""How a template of `own_template.template_source` begins."""


@dataclass(frozen=True)
class Template:
    """A Jinja chat template with the special tokens that it may name.

    Attributes:
        source: the template.
        special: such as ``bos_token``, by the name that the template uses.
    """

    source: str
    special: tuple[tuple[str, Any], ...] = ()

    @property
    def is_ours(self) -> bool:
        """Whether agentforge wrote it, so that every turn renders by itself and quoted tags are escaped."""
        return self.source.startswith(OURS)

    @property
    def is_marked(self) -> bool:
        """Whether it is agentforge's and says itself what is trained."""
        return self.is_ours and GENERATION_TAG.search(self.source) is not None

    def render(self, turns: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None, prompt: bool) -> str:
        """Return the conversation as text.

        Args:
            prompt: up to where the assistant begins to speak.

        Raises:
            BadRow: the template refuses it, or fails on it.
        """
        return self._render(turns, tools, prompt, marks=False)[0]

    def render_marked(
        self, turns: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None, prompt: bool
    ) -> tuple[str, list[tuple[int, int]]]:
        """Return the text and the (start, end) of what stands between the template's generation tags."""
        return self._render(turns, tools, prompt, marks=True)

    def _render(
        self, turns: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None, prompt: bool, marks: bool
    ) -> tuple[str, list[tuple[int, int]]]:
        try:
            return self._render_with(list(tools) if tools else None, turns, prompt, marks)
        # A template is a program of whoever made the model: besides refusing with jinja's own errors it may index what
        # is not there, or join what is no text. A template that cannot be read at all fails in the same way.
        except Exception as error:
            if not tools:  # Hermes 3's loops over the tools whether there are any or not
                with suppress(Exception):
                    return self._render_with([], turns, prompt, marks)
            said = " ".join(str(error).split()) or type(error).__name__
            raise BadRow(
                "refused by the chat template", f"the chat template refuses the conversation: {said}"
            ) from None

    def _render_with(
        self, tools: list[Mapping[str, Any]] | None, turns: Sequence[Message], prompt: bool, marks: bool
    ) -> tuple[str, list[tuple[int, int]]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        render_all: Any = render_jinja_template  # its annotation says str and omits the spans
        rendered, spans = render_all(
            [list(turns)],
            tools=tools,
            chat_template=self.source,
            return_assistant_tokens_mask=marks,
            add_generation_prompt=prompt,
            **dict(self.special),
        )
        return rendered[0], spans[0] if marks else []


@dataclass(frozen=True)
class RememberingTemplate(Template):
    """A template that renders no conversation twice: for the probe, whose conversations begin alike."""

    rendered: dict[str, tuple[str, list[tuple[int, int]]]] = field(default_factory=dict, compare=False)

    def _render(
        self, turns: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None, prompt: bool, marks: bool
    ) -> tuple[str, list[tuple[int, int]]]:
        asked = json.dumps([list(turns), tools, prompt, marks])
        if asked not in self.rendered:
            self.rendered[asked] = super()._render(turns, tools, prompt, marks)
        return self.rendered[asked]
