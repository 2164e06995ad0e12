"""A Python program in an interpreter that was forked and not started: as ``python main.py`` in all that it can tell.

Part of `launcher`; standard library only.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import sys
import threading
import types


def run(source: str) -> None:
    """Be ``python main.py``: same module, streams, traceback and exit code."""
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8", "surrogateescape")
    sys.stdout = stream(1, "surrogateescape")
    sys.stderr = stream(2, "backslashreplace", line_buffering=True)
    for name in ("stdin", "stdout", "stderr"):
        setattr(sys, f"__{name}__", getattr(sys, name))
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__="main.py", __builtins__=__builtins__)
    sys.modules["__main__"] = main
    sys.argv = ["main.py"]
    code = 0
    try:
        exec(compile(source, "main.py", "exec", dont_inherit=True), main.__dict__)
    except SystemExit as error:
        code = end_of(error)
    except BaseException as error:
        trace = error.__traceback__
        assert trace is not None
        # the first frame is this one; a SyntaxError has no other
        sys.excepthook(type(error), error.with_traceback(trace.tb_next), trace.tb_next)
        code = 1
    leave(main, code)


def end_of(error: SystemExit) -> int:
    """Return the exit code that an interpreter gives for it, and print what it prints."""
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def leave(main: types.ModuleType, code: int) -> None:
    """End as an interpreter does, but without clearing the memory that is shared with the zygote: that takes longer
    than all the rest of a case."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if threading.active_count() == 1:  # others may still be using it
        main.__dict__.clear()
    for output in (sys.stdout, sys.stderr):
        try:
            output.flush()
        except Exception as error:
            code = code or 120  # as python ends when its last output cannot be written
            with contextlib.suppress(Exception):
                print(f"Exception ignored: {error!r}", file=sys.stderr)
    os._exit(code)


def stream(descriptor: int, errors: str, line_buffering: bool = False) -> io.TextIOWrapper:
    raw = io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False))
    return io.TextIOWrapper(raw, "utf-8", errors, line_buffering=line_buffering)
