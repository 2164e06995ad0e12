"""Which benchmarks there are: files of ours, of the user and of lm-eval, found by name before a model is opened.

lm-eval finds a task by reading all of its fourteen thousand YAML files, which takes 6 to 18 seconds. Nearly every task
says its name in a line ``task: NAME`` of its own file, so here the files are only searched for that line (under two
seconds); lm-eval's own index is built for the names that are not found so: groups, tags, and misspelt ones.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from agentforge.errors import UserError, did_you_mean
from agentforge.recipe.yaml_files import config_roots

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

OWN = "benchmarks"
"""Folder of configs with our task files: of sets that lm-eval has no task for."""
TASK_LINE = re.compile(r"""^task:[ \t]*["']?([^\s"'#\[{]+)["']?[ \t]*(?:#.*)?$""", re.MULTILINE)


def require_lm_eval() -> None:
    """Refuse to go on without lm-evaluation-harness."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            "evaluate.benchmarks needs lm-evaluation-harness, which is not installed; "
            "run `pip install agentforge-train[benchmarks]`"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what lm-eval says about every task and every option to itself; its errors still come through."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def find_tasks(names: Sequence[str]) -> tuple[TaskManager, list[str]]:
    """Return what lm-eval loads each task from: the path of its file, or the name of a group or tag that it knows.

    Returns:
        the manager that knows the groups and tags among them, and an entry for each name.

    Raises:
        UserError: there is no such task, with the nearest name; or lm-eval is not installed.
    """
    require_lm_eval()
    from lm_eval.tasks import TaskManager

    found = [_file_of(name) for name in names]
    if all(path is not None for path in found):
        # It scans nothing: it is only asked to load files.
        return TaskManager(include_defaults=False), [str(path) for path in found]
    with quiet():
        manager = TaskManager()
    for name, path in zip(names, found, strict=True):
        if path is None and name not in manager.task_index:
            known = [*_own_files(), *manager.all_tasks]
            hint = did_you_mean(name, known) or "; `lm_eval ls tasks` lists them all"
            raise UserError(f"evaluate.benchmarks.tasks: there is no task '{name}'{hint}")
    return manager, [name if path is None else str(path) for name, path in zip(names, found, strict=True)]


def _file_of(name: str) -> Path | None:
    if name.endswith((".yaml", ".yml")) or "/" in name:
        if not Path(name).is_file():
            raise UserError(f"evaluate.benchmarks.tasks: there is no file {name}")
        return Path(name)
    return _own_files().get(name) or _library_files().get(name)


def _own_files() -> dict[str, Path]:
    # The first root wins: a project's own configs/ comes before the ones that were installed.
    roots = reversed(config_roots())
    return {path.stem: path for root in roots for path in sorted((root / OWN).glob("*.yaml"))}


def _library_files() -> dict[str, Path]:
    """Return name to file of lm-eval's tasks, in its own order: of two files with the same name it takes the first."""
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None and spec.submodule_search_locations
    found: dict[str, Path] = {}
    for path in sorted(_yaml_files(os.path.join(spec.submodule_search_locations[0], "tasks"))):
        with open(path, encoding="utf-8", errors="replace") as file:
            if line := TASK_LINE.search(file.read()):
                found.setdefault(line.group(1), Path(path))
    return found


def _yaml_files(root: str) -> Iterator[str]:
    for directory, _, files in os.walk(root):
        yield from (os.path.join(directory, name) for name in files if name.endswith(".yaml"))
