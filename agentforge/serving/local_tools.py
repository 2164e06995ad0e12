"""What a call gives when somebody talks to a model here: `think` and `complete` always, `bash` only in the sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from agentforge.environments.sandbox.sandbox import TIMEOUT, Sandbox, SandboxFailed, SandboxResult
from agentforge.errors import CheckRefused, UserError
from agentforge.installation import find_paths

ToolMode = Literal["show", "sandbox"]
MOST_BYTES = 8 * 2**20
LONGEST_TIMEOUT = 600
"""Seconds that a model may let a command run."""


class LocalTools:
    """Runs calls one after another; the sandbox's files stay until it is closed.

    Args:
        mode: ``show`` runs nothing; ``sandbox`` runs `bash`.
        files: relative path to text, in the sandbox from the start.

    Raises:
        CheckRefused: commands cannot be isolated on this machine.
    """

    def __init__(self, mode: ToolMode = "show", files: Mapping[str, str] | None = None) -> None:
        self._files = dict(files or {})
        self._sandbox = Sandbox(self._files) if mode == "sandbox" else None

    def run(self, call: dict[str, Any]) -> tuple[str, bool]:
        """Return what the tool answers, and whether it did run.

        Arguments that cannot be run are answered with one sentence that begins with ``error:``, as a shell would answer
        them: the model can mend them in its next turn. Nothing that a model can write raises an exception.
        """
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        if name in ("think", "complete"):
            return "", True  # as in the training data: they have no output
        if name != "bash":
            return f"{name} is not available here", False
        if self._sandbox is None:
            return "not executed: tools are only shown here", False
        try:
            return describe(self._bash(self._sandbox, arguments)), True
        except ValueError as error:
            return f"error: {error}", True
        except SandboxFailed:  # no command can break it; something outside can, as when the machine runs out of memory
            self._sandbox.close()
            with suppress(SandboxFailed, CheckRefused):
                self._sandbox = Sandbox(self._files)
            return "error: the sandbox broke and was started anew; its files are as they were at the beginning", True

    @staticmethod
    def _bash(sandbox: Sandbox, arguments: Any) -> SandboxResult:
        if not isinstance(arguments, dict):
            raise ValueError("the arguments must be an object with a command")
        command, timeout = arguments.get("command"), arguments.get("timeout", TIMEOUT)
        if command is None or (isinstance(command, str) and not command.strip()):
            raise ValueError("the command is empty")
        # Not `timeout <= 0`: no comparison with NaN holds, so it would be taken for a time
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= LONGEST_TIMEOUT:
            raise ValueError(f"the timeout must be a number of seconds from 0 to {LONGEST_TIMEOUT}")
        return sandbox.run(command, timeout)

    def close(self) -> None:
        """Delete the sandbox's files."""
        if self._sandbox is not None:
            self._sandbox.close()


def read_files(directory: Path) -> dict[str, str]:
    """Return the text files below a directory, to be copied into the sandbox; the originals are never touched.

    Raises:
        UserError: there is no such directory, a file or its name is no text, or all together are over 8 MiB.
    """
    found = find_paths(directory)
    if len(found) != 1 or not found[0].is_dir():
        raise UserError(f"--files {directory}: there is no such directory")
    (directory,) = found
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    if (size := sum(path.stat().st_size for path in paths)) > MOST_BYTES:
        raise UserError(f"--files {directory}: {size:,} bytes are over the limit of {MOST_BYTES:,}")
    try:
        files = {str(path.relative_to(directory)): path.read_text(encoding="utf-8") for path in paths}
        "".join(files).encode()  # a name that is not UTF-8 comes with half surrogate pairs in it
        return files
    except UnicodeError as error:
        raise UserError(f"--files {directory}: it must hold text files only: {error}") from None


def describe(result: SandboxResult) -> str:
    """Return a command's outputs as the model has learnt to read them (data/aj/generator/world.py writes the same)."""
    parts = [result.stdout.rstrip("\n"), result.stderr.rstrip("\n")]
    if result.truncated:
        parts.append("[output cut]")
    if result.timed_out:
        parts.append("[timed out]")
    elif result.exit_code:
        parts.append(f"[exit code {result.exit_code}]")
    return "\n".join(part for part in parts if part)
