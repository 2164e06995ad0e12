"""agentforge's own chat template, with the turn markers that a base was trained to see."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TEMPLATE = Path(__file__).with_name("templates") / "hermes.jinja"


@dataclass(frozen=True)
class Markers:
    """What a base model was trained to see around turns.

    Attributes:
        tokens: those that must each be a single token.
        texts: the names of hermes.jinja and what stands for them; ASSISTANT_STOP ends an assistant's turn.
    """

    tokens: tuple[str, ...]
    texts: Mapping[str, str]


MARKERS = {
    "chatml": Markers(
        tokens=("<|im_start|>", "<|im_end|>"),
        texts={
            "CONVERSATION_BEGIN": "",
            "SYSTEM_BEGIN": "<|im_start|>system\n",
            "SYSTEM_END": "<|im_end|>\n",
            "USER_BEGIN": "<|im_start|>user\n",
            "USER_END": "<|im_end|>\n",
            "ASSISTANT_BEGIN": "<|im_start|>assistant\n",
            "ASSISTANT_STOP": "<|im_end|>",
            "ASSISTANT_END": "\n",
        },
    ),
    "deepseek_r1": Markers(
        tokens=("<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
        texts={
            "CONVERSATION_BEGIN": "<｜begin▁of▁sentence｜>",
            "SYSTEM_BEGIN": "",
            "SYSTEM_END": "",
            "USER_BEGIN": "<｜User｜>",
            "USER_END": "",
            "ASSISTANT_BEGIN": "<｜Assistant｜>",
            "ASSISTANT_STOP": "<｜end▁of▁sentence｜>",
            "ASSISTANT_END": "",
        },
    ),
}
DOCUMENT_END = "<|endoftext|>"


def template_source(kind: str, begin: str = "") -> str:
    """Return agentforge's template with the markers of ``kind`` in it.

    Args:
        begin: the token that the tokenizer puts before every text; the template writes it, because servers that render
            it leave the tokenizer's own out.
    """
    source = TEMPLATE.read_text(encoding="utf-8").rstrip("\n")
    # A JSON string is also a Jinja string. All names are replaced in one pass, so no marker is itself searched for
    # names.
    texts = {**MARKERS[kind].texts, "CONVERSATION_BEGIN": MARKERS[kind].texts["CONVERSATION_BEGIN"] or begin}
    literals = {name: json.dumps(text, ensure_ascii=False) for name, text in texts.items()}
    return re.sub("|".join(literals), lambda found: literals[found.group()], source)
