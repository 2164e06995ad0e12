"""Small machines to work on: a scratch directory each, filled from a seed, in which commands are really executed."""

from __future__ import annotations

import fnmatch
import os
import random
import subprocess
import tempfile
from pathlib import Path

FILES = {
    "logs": ["app.log", "web.log", "db.log", "mail.log", "cache.log", "auth.log"],
    "data": ["users.csv", "orders.csv", "items.csv", "prices.csv", "cities.csv", "stock.csv"],
    "src": ["main.py", "util.py", "parse.py", "server.py", "client.py", "test.py"],
    "docs": ["readme.md", "notes.txt", "todo.txt", "guide.md", "faq.md", "plan.txt"],
    "conf": ["app.ini", "web.ini", "db.ini", "mail.ini", "cache.ini", "auth.ini"],
}
FILES_PER_FOLDER = 4
KINDS = ["log", "csv", "py", "md", "txt", "ini"]
NEW_FOLDERS = ["backup", "archive", "reports", "drafts", "old", "tmp"]
SERVICES = ["nginx", "postgres", "redis", "postfix"]
WORDS = ["error", "warning", "timeout", "login", "port", "user", "alice", "bob", "paris", "london", "server", "cache"]
AGENT_ROLES = ["web", "db", "cache", "mail"]
AGENT_GROUPS = [role + stage for role in AGENT_ROLES for stage in ("prod", "test")]
AGENTS = [f"{group}0{number}" for group in AGENT_GROUPS for number in (1, 2, 3)]

ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
MODIFIED = 1_700_000_000  # seconds; every file of a world is of the same age
TIMEOUT = 10.0  # seconds a command

LOG_LINES = [
    "error: timeout for user {name}",
    "warning: cache is full",
    "info: login of {name}",
    "info: server listens on port {port}",
    "error: no answer from {place}",
    "warning: slow query, {port} ms",
    "info: user {name} left",
]
CODE_LINES = [
    "import os",
    "port = {port}",
    "user = '{name}'",
    "def login(user):",
    "    return user",
    "raise TimeoutError",
    "server = None",
]
TEXT_LINES = [
    "# How to start the server",
    "Ask {name} before you change the port.",
    "The cache is in {place}.",
    "A timeout is not an error.",
    "Send {name} the list.",
    "Every user needs a login.",
]
INI_LINES = ["port = {port}", "user = {name}", "timeout = {small}", "server = {place}", "cache = on", "warning = off"]
TABLE_LINES = ["{small},{name},{place}"]
LINES = {"log": LOG_LINES, "csv": TABLE_LINES, "py": CODE_LINES, "md": TEXT_LINES, "txt": TEXT_LINES, "ini": INI_LINES}


class World:
    """The local machine and some agents, as directories that live until the context ends.

    Args:
        seed: everything in the world is drawn from it.
        agents: names of the agents that are online.
    """

    def __init__(self, seed: str, agents: list[str]) -> None:
        self.agents = sorted(agents)
        self._seed = seed
        self._root = tempfile.TemporaryDirectory(prefix="aj-world-")
        rng = random.Random(seed)
        self.present = {folder: sorted(rng.sample(names, FILES_PER_FOLDER)) for folder, names in FILES.items()}

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self._root.cleanup()

    def _directory(self, machine: str) -> Path:
        """Where the machine's files lie; they are made when it is first used."""
        directory = Path(self._root.name) / machine
        if not directory.exists():
            fill(directory, self.present, random.Random(f"{self._seed}/{machine}"))
        return directory

    def run(self, command: str, machine: str = "local") -> tuple[int, str]:
        """Execute `command` in bash on `machine`.

        Returns:
            The exit code, and what the tool answers: standard output, standard error, and the exit code if it is not 0.
        """
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-c", command],
            cwd=self._directory(machine),
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        parts = [done.stdout.rstrip("\n"), done.stderr.rstrip("\n")]
        if done.returncode:
            parts.append(f"[exit code {done.returncode}]")
        return done.returncode, "\n".join(part for part in parts if part)

    def exists(self, path: str) -> bool:
        """Whether the local machine has the file now."""
        return (self._directory("local") / path).exists()

    def matching(self, pattern: str) -> list[str]:
        """The agents online whose names match a shell pattern such as ``webprod*``."""
        return [agent for agent in self.agents if fnmatch.fnmatchcase(agent, pattern)]


def fill(directory: Path, present: dict[str, list[str]], rng: random.Random) -> None:
    """Write a machine's files: those of each folder, and the state of its services."""
    contents = {
        f"{folder}/{name}": _file_text(name.rsplit(".", 1)[1], rng)
        for folder, names in present.items()
        for name in names
    }
    contents |= {f"run/{service}": rng.choice(["running", "stopped"]) + "\n" for service in SERVICES}
    for name, text in contents.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        os.utime(path, (MODIFIED, MODIFIED))


def _file_text(kind: str, rng: random.Random) -> str:
    """Two to seven lines that suit the kind of file."""
    lines = []
    for _ in range(rng.randint(2, 7)):
        values = {
            "name": rng.choice(["alice", "bob", "carol", "dave"]),
            "place": rng.choice(["paris", "london", "oslo", "rome"]),
            "port": rng.choice(["80", "443", "8080", "5432"]),
            "small": str(rng.randint(1, 9)),
        }
        lines.append(rng.choice(LINES[kind]).format(**values))
    return "\n".join(lines) + "\n"
