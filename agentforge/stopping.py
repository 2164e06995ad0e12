"""Ctrl-C and SIGTERM: an exception lets every `finally` clean up, then one line is printed and the exit code is 75.

Imports nothing heavy: the handlers must be there before seconds of imports begin.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from types import FrameType

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: run again
# What a scheduler, `kill` and a lost terminal send. Python itself makes a KeyboardInterrupt of SIGINT.
SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class StoppedBySignal(SystemExit):
    """A signal came. No KeyboardInterrupt, which a conversation takes for the wish to stop one answer."""

    def __init__(self, name: str) -> None:
        super().__init__(EXIT_CODE)
        self.name = name


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """End the process with one line and exit code 75 if a signal stops what is inside.

    A signal that the parent process has switched off (``nohup``) stays off. After the first signal has been turned into
    an exception, a second one interrupts the cleaning too.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _on_signal)
    try:
        yield
    except BaseException as error:
        if (name := _signal_behind(error)) is None:
            raise
        _end(name, error)


def _on_signal(number: int, frame: FrameType | None) -> None:
    raise StoppedBySignal(signal.Signals(number).name)


def _signal_behind(error: BaseException | None) -> str | None:
    """Return the signal that led to an error: an extension module, or a cleaner, may have raised another one since."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, StoppedBySignal):
            return error.name
        if isinstance(error, KeyboardInterrupt):
            return "Ctrl-C"
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def _end(name: str, error: BaseException) -> None:
    for number in (signal.SIGINT, *SIGNALS):
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)  # whoever is still impatient gets an end without a traceback
    if os.environ.get("AGENTFORGE_LOG", "").upper() == "DEBUG":
        traceback.print_exception(error)
    # The traceback's frames hold generators, and those hold pools of processes: let go of them, they end now.
    traceback.clear_frames(error.__traceback__)
    with contextlib.suppress(OSError):  # of a lost terminal
        print(f"agentforge: stopped by {name}; run the same command again to continue", file=sys.stderr, flush=True)
    sys.exit(EXIT_CODE)
