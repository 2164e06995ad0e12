"""What a call gives when somebody talks to a model here: `think` and `complete` always, `bash` only in the sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from agentforge.environments.sandbox.sandbox import TIMEOUT, Sandbox, SandboxResult
from agentforge.errors import UserError

ToolMode = Literal["show", "sandbox"]
MOST_BYTES = 8 * 2**20


class LocalTools:
    """Runs calls one after another; the sandbox's files stay until it is closed.

    Args:
        mode: ``show`` runs nothing; ``sandbox`` runs `bash`.
        files: relative path to text, in the sandbox from the start.

    Raises:
        CheckRefused: commands cannot be isolated on this machine.
    """

    def __init__(self, mode: ToolMode = "show", files: Mapping[str, str] | None = None) -> None:
        self._sandbox = Sandbox(files) if mode == "sandbox" else None

    def run(self, call: dict[str, Any]) -> tuple[str, bool]:
        """Return what the tool answers, and whether it did run."""
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        if name in ("think", "complete"):
            return "", True  # as in the training data: they have no output
        if name != "bash":
            return f"{name} is not available here", False
        if self._sandbox is None:
            return "not executed: tools are only shown here", False
        return describe(self._sandbox.run(arguments["command"], arguments.get("timeout", TIMEOUT))), True

    def close(self) -> None:
        """Delete the sandbox's files."""
        if self._sandbox is not None:
            self._sandbox.close()


def read_files(directory: Path) -> dict[str, str]:
    """Return the text files below a directory, to be copied into the sandbox; the originals are never touched.

    Raises:
        UserError: there is no such directory, a file is no text, or all together are over 8 MiB.
    """
    if not directory.is_dir():
        raise UserError(f"--files {directory}: there is no such directory")
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    if (size := sum(path.stat().st_size for path in paths)) > MOST_BYTES:
        raise UserError(f"--files {directory}: {size:,} bytes are over the limit of {MOST_BYTES:,}")
    try:
        return {str(path.relative_to(directory)): path.read_text(encoding="utf-8") for path in paths}
    except UnicodeDecodeError as error:
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
