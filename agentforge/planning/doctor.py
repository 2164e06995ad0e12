"""What this machine has and lacks for a recipe, each with the command that mends it. Imports no heavy library."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from agentforge.data.sources.source_files import MissingData, locate, registered
from agentforge.environments.registry import make
from agentforge.errors import UserError
from agentforge.installation import find_paths, gguf_setup
from agentforge.planning import storage
from agentforge.planning.check import Check
from agentforge.planning.constants import HYBRID_TIME
from agentforge.planning.cost import compute_hours
from agentforge.planning.flops import flops_per_token
from agentforge.planning.hub_reachable import hub_check
from agentforge.planning.memory import USABLE
from agentforge.planning.plan import Plan, make_plan
from agentforge.planning.shapes import cached_config, config_of, maker_of
from agentforge.planning.slowdown import has_scan
from agentforge.recipe.hardware import load_hardware, this_machine
from agentforge.recipe.schema import Recipe
from agentforge.system_errors import system_errors_explained
from agentforge.systems.registry import system_of

TRIAL = ".doctor-"
SCAN_KERNELS = ("mamba-ssm", "causal-conv1d")
SHOWN_LIBRARIES = ("torch", "transformers", "trl", "accelerate", "datasets", "peft")


def diagnose(recipe: Recipe | None = None, command: str = "RECIPE") -> list[Check]:
    """Return what this machine has and what it lacks.

    Args:
        recipe: None: only what every recipe needs.
        command: how the recipe is called on the command line (``aj --profile tiny``), for the commands that mend.

    Raises:
        UserError: the recipe's base, data or hardware is not known.
    """
    plan = make_plan(recipe) if recipe is not None else None  # first: what is wrong with the recipe is said at once
    checks = [_python(), _libraries(), _torch()]
    if recipe is None or plan is None:
        machine = Check("machine", "ok", str(this_machine()))
        return [*checks, machine, *_disk(Path("."), 0.0), *_gguf(needed=False), _sandbox()]
    checks += [_accelerator(plan, command), _launch(plan), _host_memory(plan)]
    checks += [*_disk(Path(recipe.output_dir), _space(plan)), _writing(recipe)]
    checks += [*_base(plan, command), *_sources(recipe, command), *_environments(recipe), *_vllm(recipe)]
    if any(not item.here for item in plan.downloads):
        checks += hub_check()
    checks += _scan_kernels(plan)
    return [*checks, *(_gguf(needed=True) if recipe.export.gguf and recipe.train.lora is not None else [])]


def _sandbox() -> Check:
    """Isolate a command: only then is it known. Takes a fifth of a second, so not for every recipe."""
    from agentforge.environments.sandbox.sandbox import isolation, isolation_problem

    if isolation_problem() is None:
        return Check("sandbox", "ok", isolation())
    mend = "allow user namespaces, e.g. sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 (docs/sandbox.md)"
    return Check("sandbox", "warn", isolation(), mend)


def _python() -> Check:
    return Check("python", "ok", f"{platform.python_version()} ({sys.executable})")


def _libraries() -> Check:
    """Compare the installed versions with what the distribution asks for."""
    from packaging.specifiers import SpecifierSet

    wrong = []
    for name, needed in requirements().items():
        if (here := _version(name)) is None:
            wrong.append(f"{name} is not installed")
        elif not SpecifierSet(needed).contains(here, prereleases=True):
            wrong.append(f"{name} is {here}, {needed} is needed")
    if wrong:
        return Check("libraries", "missing", "; ".join(wrong), "make setup")
    return Check("libraries", "ok", ", ".join(f"{name} {_version(name)}" for name in SHOWN_LIBRARIES))


def requirements() -> dict[str, str]:
    """Return what the distribution needs without its extras: name to version specifier."""
    lines = re.findall(r"^Requires-Dist: *(.+)$", _metadata("agentforge-train"), re.MULTILINE)
    parts = [re.match(r"([\w.-]+)\s*([^;]*)$", line) for line in lines]  # a line with a marker belongs to an extra
    return {part.group(1): part.group(2).strip() for part in parts if part}


def _metadata(name: str) -> str:
    # As text: importlib.metadata would parse each of them as an e-mail, for a third of this verb's time
    try:
        return metadata.distribution(name).read_text("METADATA") or ""
    except metadata.PackageNotFoundError:
        return ""


def _version(name: str) -> str | None:
    found = re.search(r"^Version: *(\S+)", _metadata(name), re.MULTILINE)
    return found.group(1) if found else None


def _torch() -> Check:
    """Compare the CUDA that torch was built for with the driver's, without importing torch."""
    built, driver = _torch_cuda(), _driver_cuda()
    if not this_machine().gpus:
        return Check("torch", "ok", f"built for CUDA {built}, no GPU here" if built else "CPU build, no GPU here")
    if built is None:
        version = (_version("torch") or "").partition("+")[0]
        return Check(
            "torch",
            "missing",
            "CPU build, but there is a GPU",
            f".venv/bin/pip install --force-reinstall torch=={version}",
        )
    if driver is not None and int(driver.split(".")[0]) < int(built.split(".")[0]):
        return Check("torch", "missing", f"built for CUDA {built}, the driver has {driver}", "update the NVIDIA driver")
    return Check("torch", "ok", f"built for CUDA {built}, the driver has {driver or 'an unknown version'}")


def _torch_cuda() -> str | None:
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    text = (Path(spec.submodule_search_locations[0]) / "version.py").read_text(encoding="utf-8")
    found = re.search(r"^cuda[^=\n]*= *'([\d.]+)'", text, re.MULTILINE)
    return found.group(1) if found else None


def _driver_cuda() -> str | None:
    if not shutil.which("nvidia-smi"):
        return None
    try:
        header = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"CUDA Version: *([\d.]+)", header)
    return found.group(1) if found else None


def _accelerator(plan: Plan, command: str) -> Check:
    """Say whether the recipe's hardware is here and large enough; if not, why not and what it would cost."""
    machine, hardware = this_machine(), plan.hardware
    needs = f"{plan.memory.total() / 2**30:.1f} GiB per device"
    if not plan.fits:
        return Check("hardware", "missing", f"{hardware} cannot hold it: {needs}", f"agentforge plan {command}")
    if hardware.gpus == 0:
        return Check(
            "hardware", "ok", f"{machine.cores} CPU cores; the run needs {plan.memory.total() / 2**30:.2f} GiB"
        )
    if (found := machine.matching(hardware)) >= hardware.gpus // hardware.nodes:
        return Check("hardware", "ok", f"{found}x {hardware.gpu}; the run needs {needs}")
    detail = f"the recipe is for {hardware} and needs {needs}; here: {machine}"
    if machine.gpus:
        largest = max(gpu.memory_gib for gpu in machine.gpus)
        enough = plan.memory.total() / 2**30 <= USABLE * largest
        verdict = "large enough, if you write a profile for it" if enough else "too small"
        detail += f". One GPU here has {largest:.0f} GiB: {verdict}"
    elif plan.tokens is not None:
        detail += f". {_on_the_cpu(plan)}"
    train = next((stage for stage in plan.stages if stage.stage == "train"), None)
    if train is not None:
        detail += f"; on {hardware.name} about {train.hours.mid:.3g} h and ${train.dollars.mid:,.0f}"
    return Check(
        "hardware", "missing", detail, f"agentforge plan {command}   (or run the same code in small: make demo)"
    )


def _launch(plan: Plan) -> Check:
    """Say how the processes share the training, and whether the library for it is here."""
    detail = str(plan.launch)
    if plan.launch.strategy in ("zero2", "zero3") and _version("deepspeed") is None:
        return Check("launch", "missing", f"{detail}; DeepSpeed is not installed", "pip install deepspeed")
    return Check("launch", "ok", detail)


def _scan_kernels(plan: Plan) -> list[Check]:
    """Say whether a GPU would run a hybrid's scan by its own kernels."""
    if not plan.hardware.gpus or not has_scan(plan.shape):
        return []
    found = {name: _version(name) for name in SCAN_KERNELS}
    if all(found.values()):
        return [Check("mamba kernels", "ok", ", ".join(f"{name} {version}" for name, version in found.items()))]
    absent = " and ".join(name for name, version in found.items() if version is None)
    most = HYBRID_TIME.range.high
    return [
        Check(
            "mamba kernels",
            "warn",
            f"{absent} not installed: the scan would run in torch, in up to {most:g} times the time of training (a "
            "guess) and with its intermediate results in memory, and rows could not be packed",
            'pip install --no-build-isolation "agentforge-train[mamba]"',
        )
    ]


def _on_the_cpu(plan: Plan) -> str:
    assert plan.tokens is not None
    cpu = load_hardware("cpu")
    flops = plan.tokens.slots * flops_per_token(plan.recipe, plan.shape, recompute=plan.memory.recomputes)
    hours = compute_hours(flops, cpu).mid * cpu.cores / this_machine().cores
    length = (
        f"{hours / 8766:,.0f} years" if hours > 8766 else f"{hours / 24:,.0f} days" if hours > 48 else f"{hours:.1f} h"
    )
    return f"On these CPU cores training would take about {length}"


def _host_memory(plan: Plan) -> Check:
    """Without a GPU, training needs it. merge and gguf hold the whole model in it to compare it with the original."""
    machine = this_machine()
    merged = next((item.size or 0.0 for item in plan.made if item.what == "merged"), 0.0)
    needed = max(merged, plan.memory.total() if plan.hardware.gpus == 0 else 0.0) / 2**30
    detail = f"{machine.memory_gib:.1f} GiB; the recipe needs {needed:.1f}"
    if needed <= USABLE * machine.memory_gib:
        return Check("host memory", "ok", detail)
    why = "merge and gguf load the whole model to check it" if plan.hardware.gpus else "the CPU trains in it"
    return Check("host memory", "missing", f"{detail}: {why}", "use a machine with more memory, or a smaller profile")


def _space(plan: Plan) -> float:
    return storage.total(plan.downloads, missing_only=True) + storage.total(plan.made)


def _existing(directory: Path) -> Path:
    """Return the directory, or the nearest one above it that is there."""
    place = directory.absolute()
    # os.path, because pathlib raises for a name that is too long for the file system
    return next(place for place in (place, *place.parents) if os.path.exists(place))


def _writing(recipe: Recipe) -> Check:
    """Write a file under the longest name that a stage gives one. Permissions and mounts cannot be known otherwise."""
    directory = Path(recipe.output_dir)
    there = _existing(directory)
    longest = f".{recipe.artifact('attention-dropped').name}.partial.json"
    try:
        with system_errors_explained(directory), TemporaryDirectory(dir=there, prefix=TRIAL) as scratch:
            trial = Path(scratch) / directory.absolute().relative_to(there)
            trial.mkdir(parents=True, exist_ok=True)
            (trial / longest).write_bytes(bytes(4096))
    except (UserError, OSError) as error:
        problem = re.sub(rf"/{re.escape(TRIAL)}\w+", "", str(error))
        return Check("writing", "missing", problem.partition(";")[0], problem.partition("; ")[2])
    return Check("writing", "ok", f"{directory} can be written to")


def _disk(directory: Path, needed: float) -> Iterator[Check]:
    there = _existing(directory)
    free = shutil.disk_usage(there).free
    detail = f"{free / 1e9:.1f} GB free at {there}"
    if needed:
        detail += f"; the plan needs {needed / 1e9:.3g} GB"
    if free >= needed:
        yield Check("disk", "ok", detail)
    else:
        yield Check("disk", "missing", detail, "free some space, or set output_dir (and HF_HOME) to a larger disk")


def _base(plan: Plan, command: str) -> Iterator[Check]:
    model = plan.recipe.model
    if model.path is None:
        return
    if Path(model.path).is_dir() or cached_config(model) is not None:
        yield Check("base", "ok", f"{model.path} is here")
    elif (maker := maker_of(model.path)) is not None:
        name, made = maker
        mend = (
            f"agentforge prepare {name} && agentforge train {name}"
            if made.surgery is None
            else f"agentforge surgery {name}"
        )
        yield Check(
            "base", "warn", f"{model.path} has not been made yet (`agentforge run {command}` makes it first)", mend
        )
    else:
        yield Check("base", "missing", f"{model.path} is not in the Hub's cache", f"agentforge download {command}")


def _sources(recipe: Recipe, command: str) -> Iterator[Check]:
    lines = [("data.mix", source) for source in recipe.data.mix]
    lines += [("train.preferences", source) for source in recipe.train.preferences]
    for key, source in lines:
        try:
            card = registered(source)
            files = [] if card is not None and card.generator else locate(source, recipe.data)
        except MissingData as error:
            state: Literal["warn", "missing"] = "warn" if recipe.data.allow_missing else "missing"
            yield Check(
                f"data {source.dataset}", state, str(error).partition("; run")[0], f"agentforge download {command}"
            )
        except UserError as error:
            yield Check(f"data {source.dataset}", "missing", str(error), f"remove it from {key}")
        else:
            made = "generated on this machine; nothing to download"
            yield Check(f"data {source.dataset}", "ok", f"{len(files)} files" if files else made)
    asked = recipe.evaluate.tool_calls
    if asked is not None and not find_paths(asked.prompts):
        yield Check("data for evaluate.tool_calls", "missing", f"there is no file {asked.prompts}", "correct the path")


def _environments(recipe: Recipe) -> Iterator[Check]:
    """Make each environment, which tells of its class, its package, its files and its server."""
    for name, options in recipe.environments.items():
        try:
            environment = make(name, options)
        except UserError as error:
            yield Check(f"environment {name}", "missing", str(error), "mend that, or leave the environment out")
        else:
            yield Check(f"environment {name}", "ok", f"{environment.tasks:,} tasks")
            environment.close()


def _vllm(recipe: Recipe) -> Iterator[Check]:
    """Check what plays the recipe's episodes, if vLLM does."""
    if recipe.rollouts.engine != "vllm":
        return
    if (system := system_of({"model_type": config_of(recipe).get("model_type")})) is not None:
        yield Check("vllm", "missing", f"it does not know the models of {system.name}", "leave out rollouts.engine")
    elif (version := _version("vllm")) is None:
        yield Check("vllm", "missing", "not installed", "pip install agentforge-train[vllm]")
    elif not this_machine().gpus:
        yield Check("vllm", "missing", f"vLLM {version}, but no CUDA GPU here", "leave out rollouts.engine")
    else:
        yield Check("vllm", "ok", f"vLLM {version}")


def _gguf(*, needed: bool) -> Iterator[Check]:
    from agentforge.export.llama_cpp import VERSION, converter_source

    problems = []
    try:
        converter_source()
    except UserError:
        problems.append("llama.cpp's converter is not in the cache")
    if importlib.util.find_spec("llama_cpp") is None:
        problems.append(f"llama-cpp-python {VERSION} is not installed")
    elif (here := _version("llama-cpp-python")) != VERSION:
        problems.append(f"llama-cpp-python is {here}, {VERSION} is needed")
    state: Literal["warn", "missing"] = "missing" if needed else "warn"
    if problems:
        yield Check("gguf", state, "; ".join(problems), gguf_setup())
    else:
        yield Check("gguf", "ok", f"llama-cpp-python {VERSION} and llama.cpp's converter")
