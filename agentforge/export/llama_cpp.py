"""llama.cpp, from the pinned llama-cpp-python source distribution: its converter, and its library built portably.

The installed package has the library but not the converter; PyPI's sdist has both, so one pinned download gives both
from the same revision. Everything lies in agentforge's cache directory and is made once.
``python -m agentforge.export.llama_cpp`` (``make gguf-setup``) does it.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path

from filelock import FileLock

from agentforge.cache import cache_directory
from agentforge.errors import CheckRefused, UserError
from agentforge.installation import gguf_setup
from agentforge.recipe.hardware import available_cores

log = logging.getLogger(__name__)

VERSION = "0.3.36"
CONVERTER_NEEDS = ("gguf==0.19.0", "sentencepiece>=0.2.0,<0.3")  # it imports sentencepiece even for BPE models
SOURCE = f"llama_cpp_python-{VERSION}"
# Not tuned to this machine's CPU, so that the cached wheel also runs on another one; none of the example programs.
CMAKE_ARGS = "-DGGML_NATIVE=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAVA_BUILD=OFF"


def source_directory() -> Path:
    """Return where source and wheel are kept."""
    return cache_directory() / f"llama-cpp-python-{VERSION}"


def converter_source() -> Path:
    """Return llama.cpp's source tree, which holds ``convert_hf_to_gguf.py``.

    Raises:
        UserError: it has not been fetched.
    """
    tree = source_directory() / SOURCE / "vendor" / "llama.cpp"
    if not (tree / "convert_hf_to_gguf.py").is_file():
        raise UserError(f"llama.cpp's converter is not installed ({tree}); run `{gguf_setup()}` once")
    return tree


def require_library() -> None:
    """Refuse to begin what will need llama.cpp if it is not installed."""
    if importlib.util.find_spec("llama_cpp") is None:
        raise UserError(f"llama-cpp-python is not installed; run `{gguf_setup()}` once")


def ask_llama_cpp(task: str, *arguments: str | Path) -> None:
    """Run a task of `llama_worker` in a process of its own.

    Raises:
        CheckRefused: it failed or llama.cpp aborted; with the last thing it said.
    """
    command = [sys.executable, "-m", "agentforge.export.llama_worker", task, *map(str, arguments)]
    # without this an abort starts a debugger to print the C stack
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
    log.debug("%s", done.stderr)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"it ended with {done.returncode}"]
        raise CheckRefused(f"llama.cpp cannot {task} {Path(arguments[0]).name}: {said[-1].strip()}")


def setup_llama_cpp() -> Path:
    """Fetch and unpack the source, build the wheel, install it; what is there already is used.

    Returns:
        llama.cpp's source tree.

    Raises:
        UserError: the package index cannot be reached, or a compiler is missing.
    """
    directory = source_directory()
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / ".lock"):  # a second setup waits for the first, then finds everything done
        _fetch_source(directory)
        wheel = _build_wheel(directory)
        _install(wheel)
    return converter_source()


def _fetch_source(directory: Path) -> None:
    if (directory / SOURCE).is_dir():
        return
    log.info("downloading the source of llama-cpp-python %s (77 MB)", VERSION)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".fetch-") as scratch:
        download = ["download", "--no-deps", "--no-binary", "llama-cpp-python", "--dest", scratch]
        _pip([*download, f"llama-cpp-python=={VERSION}"], "the source of llama-cpp-python cannot be downloaded")
        archive = next(Path(scratch).glob("*.tar.gz"))
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
        # Unpacked elsewhere and then renamed, so that a killed download does not look complete.
        os.replace(Path(scratch) / SOURCE, directory / SOURCE)


def _build_wheel(directory: Path) -> Path:
    if found := sorted(directory.glob(f"{SOURCE}-*.whl")):
        return found[0]
    if not (shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")):
        raise UserError("building llama.cpp needs a C++ compiler; install one (Debian, Ubuntu: apt install g++)")
    log.info("building llama-cpp-python: about ten minutes of CPU time, once")
    cores = str(available_cores())
    environment = {"CMAKE_ARGS": CMAKE_ARGS, "CMAKE_BUILD_PARALLEL_LEVEL": cores}
    with tempfile.TemporaryDirectory(dir=directory, prefix=".build-") as scratch:
        build = ["wheel", "--no-deps", "--wheel-dir", scratch, str(directory / SOURCE)]
        _pip(build, "llama-cpp-python cannot be built", environment)
        wheel = next(Path(scratch).glob("*.whl"))
        return Path(shutil.move(wheel, directory / wheel.name))


def _install(wheel: Path) -> None:
    needs = [re.split("[=<>]", need)[0] for need in CONVERTER_NEEDS]
    # A wheel of the same version from PyPI is as good: only its build options differ.
    if _installed("llama_cpp_python") == VERSION and all(map(_installed, needs)):
        return
    log.info("installing %s", wheel.name)
    _pip(["install", str(wheel), *CONVERTER_NEEDS], "llama-cpp-python cannot be installed")


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _pip(arguments: list[str], failure: str, environment: dict[str, str] | None = None) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, env={**os.environ, **(environment or {})}, capture_output=True, text=True)
    if done.returncode:
        log.debug("%s\n%s", done.stdout, done.stderr)
        lines = (done.stderr or done.stdout).strip().splitlines() or ["pip said nothing"]
        raise UserError(f"{failure}: {lines[-1].removeprefix('ERROR: ')}; the command was: {' '.join(command)}")


def main() -> int:
    """`make gguf-setup`."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        tree = setup_llama_cpp()
    except UserError as error:
        log.error("%s", error)
        return error.exit_code
    log.info("llama.cpp is ready: %s", tree)
    return 0


if __name__ == "__main__":
    sys.exit(main())
