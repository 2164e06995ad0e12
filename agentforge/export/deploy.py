"""`deploy`: the files that train and serve a recipe's model elsewhere; what the recipe cannot do is refused."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agentforge.data.own_template import MARKERS
from agentforge.errors import CheckRefused, UserError
from agentforge.export.ollama import modelfile
from agentforge.export.serving_files import (
    LOOPBACK,
    context_length,
    dockerfile,
    llama_server,
    server_script,
    template_kind,
    vllm_server,
)
from agentforge.export.skypilot import skypilot, steps
from agentforge.export.slurm import slurm as slurm_job
from agentforge.export.train_image import train_dockerfile
from agentforge.planning.shapes import config_of
from agentforge.recipe.hardware import load_hardware
from agentforge.recipe.loading import Options, load_recipe, load_stages
from agentforge.recipe.methods import METHODS
from agentforge.recipe.schema import Recipe, Stage
from agentforge.systems.registry import system_of

MARK = "# Written by `agentforge deploy"
HOST = re.compile(r"[A-Za-z0-9.:-]+")
Planned = list[tuple[Stage, Recipe]]


@dataclass
class Deployment:
    """What was written, and what was not.

    Attributes:
        files: name to content.
        refused: name of a file to why the recipe cannot have it.
    """

    files: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, make: Callable[[], str]) -> None:
        """Make a file, or note why it cannot be made."""
        try:
            self.files[name] = make()
        except UserError as error:
            self.refused[name] = " ".join(str(error).split())


def deploy(
    name: str, directory: Path, overrides: Sequence[str] = (), profile: str | None = None, host: str = LOOPBACK
) -> Deployment:
    """Write a recipe's deployment files.

    Args:
        name: the recipe.
        directory: made if it is missing. Files that an earlier `deploy` left and that this recipe cannot have are
            deleted.
        overrides: of the recipe; they stand in the files' commands too.
        profile: of the recipe, in the commands too.
        host: where the servers listen.

    Raises:
        UserError: the recipe is wrong, a file of another hand is in the way, or nothing can be written.
    """
    made = deployment(name, str(directory), overrides, profile, host)
    if not made.files:
        reasons = "; ".join(dict.fromkeys(made.refused.values()))
        raise CheckRefused(f"there is nothing to deploy of {name}: {reasons}")
    old = [directory / file for file in (*made.files, *made.refused) if (directory / file).exists()]
    for path in old:
        if not _is_ours(path):
            raise UserError(f"{path} was not written by `agentforge deploy`; move it away, or give another directory")
    directory.mkdir(parents=True, exist_ok=True)
    for path in old:
        path.unlink()
    for file, text in made.files.items():
        path = directory / file
        path.write_text(text, encoding="utf-8")
        if path.suffix == ".sh":
            path.chmod(0o755)
    return made


def _is_ours(path: Path) -> bool:
    try:
        return MARK in path.read_text(encoding="utf-8").partition("FROM ")[0]
    except (OSError, ValueError):
        return False


def deployment(
    name: str, directory: str, overrides: Sequence[str] = (), profile: str | None = None, host: str = LOOPBACK
) -> Deployment:
    """Return a recipe's deployment files, and which it cannot have; see `deploy`."""
    if not HOST.fullmatch(host):
        raise UserError(f"--host is '{host}'; give an address such as {LOOPBACK} or 0.0.0.0")
    recipe = load_recipe(name, overrides, profile)
    options = Options(profile, tuple(overrides))
    return _Writer(name, recipe, directory, options, load_stages(recipe, overrides, profile), host).all()


def task_of(
    name: str,
    file: str,
    overrides: Sequence[str] = (),
    profile: str | None = None,
    *,
    spot: bool = True,
    slurm: bool = False,
) -> str:
    """Return the text of a recipe's task alone, for SkyPilot or for Slurm.

    Args:
        name: the recipe.
        file: where the task will lie.
        overrides: of the recipe; they stand in the task's commands, too.
        profile: of the recipe, likewise.
        spot: rent machines that may be taken away.
        slurm: a job for `sbatch`.

    Raises:
        UserError: the recipe cannot have it.
    """
    recipe = load_recipe(name, overrides, profile)
    options = Options(profile, tuple(overrides))
    planned = load_stages(recipe, overrides, profile)
    writer = _Writer(name, recipe, str(Path(file).parent), options, planned, LOOPBACK, written_by="launch")
    return writer.slurm(file) if slurm else writer.skypilot(file, spot)


@dataclass
class _Writer:
    name: str
    recipe: Recipe
    directory: str
    options: Options
    planned: Planned
    host: str
    written_by: str = "deploy"

    def all(self) -> Deployment:
        made = Deployment()
        for file, make in {
            "skypilot.yaml": self.skypilot,
            "slurm.sh": self.slurm,
            "train.Dockerfile": self._train_image,
            "Dockerfile": self._docker,
            "Modelfile": self._ollama,
            "llama-server.sh": self._llama,
            "vllm.sh": lambda: self._vllm(adapter=False),
            "vllm-lora.sh": lambda: self._vllm(adapter=True),
        }.items():
            made.add(file, make)
        return made

    @property
    def _note(self) -> str:
        if self.written_by == "launch":
            command = shlex.join([self.name, *self.options.words()])
            return f"# Written by `agentforge launch {command}`; change the recipe, not this."
        command = shlex.join([self.name, self.directory, *self.options.words()])
        asked = "" if self.host == LOOPBACK else f" --host {self.host}"
        return f"{MARK} {command}{asked}`; change the recipe, not this."

    def skypilot(self, place: str | None = None, spot: bool = True) -> str:
        task = skypilot(
            place or f"{self.directory}/skypilot.yaml", self.name, self.recipe, self._steps(), self.options, spot
        )
        return f"{self._note}\n{task}"

    def slurm(self, place: str | None = None) -> str:
        place = place or f"{self.directory}/slurm.sh"
        first, _, rest = slurm_job(place, self.name, self.recipe, self._steps(), self.options).partition("\n")
        return f"{first}\n{self._note}\n{rest}"

    def _steps(self) -> Planned:
        """Return the stages that make the model on an empty machine, each with the recipe that it reads."""
        if (problem := self._untrainable()) is not None and not self.planned:
            raise UserError(problem)
        return self.planned or [(stage, self.recipe) for stage in steps(self.recipe)]

    def _train_image(self) -> str:
        steps, hardware = self._steps(), load_hardware(self.recipe.hardware)
        if not hardware.gpus:
            raise UserError(f"hardware is {hardware.name}: the image is for GPUs; on CPUs, `make setup` is all")
        image = train_dockerfile(self.name, self.directory, self.recipe, hardware, steps, self.options)
        return f"{self._note}\n{image}"

    def _docker(self) -> str:
        self._require_conversations()
        try:
            model, gguf = self._gguf()[0], True
        except UserError:
            model, gguf = "merged" if self._has_merged() else self._kind(), False
        serve = [self.name, "--model", model, *self.options.words()]
        return f"{self._note}\n{dockerfile(serve, self.directory, self.host, gguf)}"

    def _ollama(self) -> str:
        self._require_conversations()
        recipe, quantization = self.recipe, self._gguf()[-1]
        file, kind = f"{recipe.full_name}-{quantization}.gguf", template_kind(recipe)
        if kind is None:
            raise UserError(
                f"Ollama has no translation of the template of data.template={recipe.data.template}; serve the GGUF "
                "with llama-server, which reads the template in it"
            )
        stops = [MARKERS[kind].texts["ASSISTANT_STOP"]]
        usage = f"# Copy it beside {file}, then: ollama create {recipe.name.lower()} -f Modelfile"
        text = modelfile(file, kind, stops, context_length(recipe), recipe.data.system, recipe.export.license)
        return f"{self._note}\n{usage}\n{text}"

    def _llama(self) -> str:
        self._require_conversations()
        quantization = self._gguf()[-1]
        place = self.recipe.artifact(quantization) / f"{self.recipe.full_name}-{quantization}.gguf"
        command = llama_server(self.recipe, str(place), context_length(self.recipe), self.host)
        return server_script([self._note], command)

    def _vllm(self, adapter: bool) -> str:
        self._require_conversations()
        if (system := system_of(config_of(self.recipe))) is not None:
            raise UserError(f"vLLM does not know the models of {system.name}; serve it with `agentforge serve`")
        if not adapter and self.recipe.train.lora is not None and not self._has_merged():
            raise UserError(f"no stage of {self.name} merges its adapter; add `{{verb: merge}}` to its stages")
        return server_script([self._note], vllm_server(self.recipe, adapter, self.host))

    def _kind(self) -> str:
        return "lora" if self.recipe.train.lora is not None else "model"

    def _own(self, verb: str) -> bool:
        """Tell whether this recipe's own model goes through a stage; without stages every verb may be called."""
        return not self.planned or any(
            stage.verb == verb and stage.recipe in (None, self.name) for stage, _ in self.planned
        )

    def _has_merged(self) -> bool:
        return self.recipe.train.lora is not None and self._own("merge")

    def _gguf(self) -> list[str]:
        """Return the quantisations that the recipe makes.

        Raises:
            UserError: it makes none.
        """
        if not self._own("gguf"):
            raise UserError(f"no stage of {self.name} makes a GGUF; add `{{verb: gguf}}` to its stages")
        if self.recipe.train.lora is not None and not self._has_merged():
            raise UserError(f"no stage of {self.name} merges its adapter, and a GGUF is made of merged weights")
        if not self.recipe.export.gguf:
            raise UserError("export.gguf is empty")
        config = config_of(self.recipe)
        if (system := system_of(config)) is not None and (refusal := system.gguf_refusal(config)) is not None:
            raise UserError(refusal)
        return list(self.recipe.export.gguf)

    def _untrainable(self) -> str | None:
        """Return why no training makes this recipe's model, None if one does."""
        recipe = self.recipe
        if recipe.surgery is not None:
            return f"{self.name} operates on a checkpoint and trains nothing; deploy a recipe that trains"
        if recipe.model.path is None and not recipe.model.config:
            return f"{self.name} has no model; it is there for others to extend"
        if METHODS[recipe.train.method].supervised and not recipe.data.mix:
            return f"{self.name} has no data (data.mix) and trains nothing"
        return None

    def _require_conversations(self) -> None:
        """Refuse what a server cannot serve."""
        if not self._own("train"):
            others = dict.fromkeys(stage.recipe for stage, _ in self.planned if stage.verb == "train" and stage.recipe)
            raise UserError(
                f"the stages of {self.name} train other recipes; to serve one, deploy it: {', '.join(others)}"
            )
        if (problem := self._untrainable()) is not None:
            raise UserError(problem)
        if METHODS[self.recipe.train.method].reads == "documents":
            raise UserError("pretrain teaches documents, and a server answers conversations; use `agentforge generate`")
