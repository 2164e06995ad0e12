"""What the user types or pastes, as one turn each; and text from outside that is no UTF-8, named."""

from __future__ import annotations

import select
import sys
from collections.abc import Callable

from agentforge.errors import UserError

PASTE_PAUSE = 0.05  # seconds without a further line: what follows was typed
PROMPT = "> "


def typed_reader() -> Callable[[], str]:
    """Return a function that reads one turn from the terminal.

    A pasted text is one turn, however many lines it has. Where Python has GNU readline, the terminal itself marks what
    is pasted. Elsewhere the lines that are there at once belong together.

    It raises EOFError at the end of the input, and UserError where the input is no UTF-8.
    """
    if not _marks_pastes():
        return lambda: _checked(_lines_at_once)
    return lambda: _checked(lambda: input(PROMPT))


def _marks_pastes() -> bool:
    try:
        import readline
    except ImportError:
        return False
    if "libedit" in (readline.__doc__ or ""):
        return False
    readline.parse_and_bind("set enable-bracketed-paste on")
    return True


def _lines_at_once() -> str:
    lines = [input(PROMPT)]
    try:
        while select.select([sys.stdin], [], [], PASTE_PAUSE)[0]:
            lines.append(input())
    except (EOFError, OSError, ValueError):  # the input has ended, or it is no file that can be waited for
        pass
    return "\n".join(lines)


def _checked(read: Callable[[], str]) -> str:
    try:
        return checked_text(read(), "the input")
    except UnicodeDecodeError as error:
        return _decoded(error.object, "the input")


def checked_text(text: str, what: str) -> str:
    """Return a text that Python has read from outside.

    Args:
        what: names it, for the message.

    Raises:
        UserError: it was no UTF-8. Python keeps such bytes of an argument, or of a terminal without a locale, as
            halves of surrogate pairs, which no tokenizer can read.
    """
    return _decoded(text.encode("utf-8", "surrogateescape"), what)


def piped_text() -> str:
    """Return all of the standard input.

    Raises:
        UserError: it is no UTF-8.
    """
    raw = getattr(sys.stdin, "buffer", None)
    if raw is None:  # somebody has put a text there
        return sys.stdin.read()
    return _decoded(raw.read(), "the standard input")


def _decoded(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        place = f"byte 0x{data[error.start]:02x} at position {error.start}"
        mend = "convert it, for example with `iconv -f latin1 -t utf-8`"
        raise UserError(f"{what} is not UTF-8: {place}; {mend}") from None
