"""transformers' own common tests, which its wheel leaves out: from a checkout, or from the sdist of the same version.

`TRANSFORMERS_TESTS` names a checkout's root. Without it, the sdist is downloaded once into agentforge's cache. It has
`tests/test_modeling_common.py`, but no folders below `tests`, so the mixin for `generate` comes from a checkout alone.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tarfile
import tempfile
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import transformers
from filelock import FileLock

from agentforge.cache import cache_directory

PACKAGE = "transformers_common_tests"
GENERATION = "transformers_generation_tests"


def load() -> tuple[type, type] | str:
    """Return transformers' `ModelTesterMixin` and an empty `GenerationTesterMixin`, or why they cannot be had.

    The first asks for the second beside it. The tests of `generate` have a file of their own, by `load_generation`.
    """
    given = os.environ.get("TRANSFORMERS_TESTS")
    try:
        folder = Path(given) / "tests" if given else _from_sdist()
    except (OSError, subprocess.SubprocessError, tarfile.TarError) as error:
        return f"transformers' own tests cannot be downloaded ({error}); set TRANSFORMERS_TESTS to a checkout of it"
    if not (folder / "test_modeling_common.py").exists():
        return f"{folder} has no test_modeling_common.py"
    _package(PACKAGE, folder)
    _stand_in(f"{PACKAGE}.exporters.test_export", "ExportTesterMixin")
    _stand_in(f"{PACKAGE}.generation.test_utils", "GenerationTesterMixin")
    common = importlib.import_module(f"{PACKAGE}.test_modeling_common")
    return common.ModelTesterMixin, common.GenerationTesterMixin


def load_generation() -> type | str:
    """Return transformers' `GenerationTesterMixin`, or why it cannot be had."""
    given = os.environ.get("TRANSFORMERS_TESTS")
    if not given:
        return "transformers' tests of `generate` are not in its sdist; set TRANSFORMERS_TESTS to a checkout of it"
    folder = Path(given) / "tests" / "generation"
    if not (folder / "test_utils.py").exists():
        return f"{folder} has no test_utils.py; set TRANSFORMERS_TESTS to the root of a checkout of transformers"
    _package(GENERATION, folder)
    # Of the exporters a checkout has tests too, but none of our models can be traced. It says `tests` for its own.
    _stand_in("tests.exporters.test_export", "ExportGenerateTesterMixin")
    return importlib.import_module(f"{GENERATION}.test_utils").GenerationTesterMixin  # type: ignore[no-any-return]


def _package(name: str, folder: Path) -> None:
    if "parameterized" not in sys.modules and importlib.util.find_spec("parameterized") is None:
        sys.modules["parameterized"] = _parameterized()
    package = types.ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package


def _from_sdist() -> Path:
    version = transformers.__version__
    wanted = cache_directory() / "transformers-tests" / version
    wanted.parent.mkdir(parents=True, exist_ok=True)
    # Each worker of pytest-xdist collects, so each asks at the same time; all must find the same tests.
    with FileLock(wanted.with_name(f"{version}.lock"), timeout=600):
        if not wanted.exists():
            _download(version, wanted)
    return wanted


def _download(version: str, wanted: Path) -> None:
    with tempfile.TemporaryDirectory(dir=wanted.parent) as work:
        # `--no-build-isolation`: nothing is built, pip only asks for the metadata.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--retries", "1", "--no-deps"]
        command += ["--no-build-isolation", "--no-binary", ":all:", "--dest", work, f"transformers=={version}"]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        with tarfile.open(next(Path(work).glob("*.tar.gz"))) as archive:
            members = [member for member in archive if "/tests/" in member.name]
            archive.extractall(work, members, filter="data")
        os.replace(next(Path(work).glob("*/tests")), wanted)


def _stand_in(module: str, mixin: str) -> None:
    parent = module.rpartition(".")[0]
    if parent not in sys.modules:
        sys.modules[parent] = types.ModuleType(parent)
    sys.modules[module] = types.ModuleType(module)
    setattr(sys.modules[module], mixin, type(mixin, (), {}))


def _parameterized() -> types.ModuleType:
    """Return what the tests use of the package `parameterized`: a method for each case, made in the class's body."""

    def expand(cases: Iterable[Any], **_: Any) -> Callable[[Callable[..., None]], None]:
        body = sys._getframe(1).f_locals

        def decorate(test: Callable[..., None]) -> None:
            for number, case in enumerate(cases):
                values = tuple(case) if isinstance(case, list | tuple) else (case,)
                body[f"{test.__name__}_{number}"] = lambda self, values=values: test(self, *values)

        return decorate

    module: Any = types.ModuleType("parameterized")
    module.parameterized = types.SimpleNamespace(expand=expand)
    return module
