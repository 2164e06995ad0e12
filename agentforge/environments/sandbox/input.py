"""What a model wrote, before it becomes an argument or an input of a process: whether the system can take it at all.

JSON carries texts that no process can be given: with a NUL, with half of a surrogate pair, without end. Each check says
so in one sentence, which is a model's to read.
"""

from __future__ import annotations

from typing import Any

LONGEST_COMMAND = (128 << 10) - 1
"""Bytes: the kernel's MAX_ARG_STRLEN, without the NUL at the end."""


def checked_command(command: Any) -> str:
    """Return a command line that bash can be started with.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(command, str):
        raise ValueError(f"the command must be a string, not {type(command).__name__}")
    if "\0" in command:
        raise ValueError("the command holds a NUL character, which no command line can; write it as \\0 for printf")
    if (size := len(encoded(command, "the command"))) > LONGEST_COMMAND:
        raise ValueError(f"the command has {size:,} bytes, but at most {LONGEST_COMMAND:,} can be run; split it")
    return command


def encoded(text: str, what: str) -> bytes:
    """Return text as UTF-8.

    Raises:
        ValueError: it holds half of a surrogate pair.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise ValueError(f"{what} holds {half!a} at character {error.start}, half of a pair and no character") from None
