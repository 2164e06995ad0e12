"""Errors a user can mend. Anything else is a bug and keeps its traceback."""

from __future__ import annotations

import os


class UserError(Exception):
    """The recipe or the command line is wrong. One sentence: what, where, what to do."""

    exit_code = 2


class CheckRefused(UserError):
    """A check refused to go on: over budget, broken data, an artefact that differs from its original."""

    exit_code = 3


class MachineRefused(UserError):
    """The machine lacks something just now, such as disk space. The recipe is right: the same command works later."""

    exit_code = 1


class Stopped(UserError):
    """Stopped by a signal after everything was saved; running the same command again goes on."""

    exit_code = 75


def did_you_mean(word: str, known: list[str] | tuple[str, ...]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest of ``known``, else ``""``."""
    import difflib

    lowered = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return f"; did you mean '{lowered[near[0]]}'?" if near else ""


def seen_from(path: str) -> str:
    """Return where a relative path was looked for, as the end of a sentence; nothing for an absolute one."""
    if os.path.isabs(path):
        return ""
    return f" (looked for in {os.getcwd()}: paths are relative to the directory in which agentforge is run)"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, for a sentence of our own: libraries write paragraphs."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
