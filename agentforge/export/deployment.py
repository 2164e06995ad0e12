"""How a trained model is served and trained elsewhere: files written from the recipe, never edited by hand.

Each GGUF artefact gets its Modelfile and llama-server command. ``python -m agentforge.export.deployment RECIPE
DIRECTORY`` writes the whole set, which is how ``deploy/`` is made.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from agentforge.data.chat_template import DOCUMENT_END, MARKERS, template_source
from agentforge.errors import CheckRefused, UserError
from agentforge.export.ollama import go_template, modelfile
from agentforge.recipe.loading import load_recipe
from agentforge.recipe.schema import Quantization, Recipe

LLAMA_SERVER_PORT = 8081
VLLM_PORT = 8000
CONTEXT = 8192  # tokens served if the model has them: an agent's conversation outgrows its training rows
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's --max-lora-rank takes; its default is 16
GENERATED = "# Written by `python -m agentforge.export.deployment {name} {directory}`; change the recipe, not this.\n"


def write_deployment(
    recipe: Recipe, quantization: Quantization, directory: Path, tokenizer: Any, positions: int | None = None
) -> None:
    """Write Modelfile and llama-server command beside a GGUF.

    Args:
        tokenizer: the model's: its template says whose turn markers the Modelfile needs.
        positions: tokens the model has positions for, if it says so.
    """
    context = context_length(recipe, positions)
    file = f"{recipe.full_name}-{quantization}.gguf"
    kind = next((kind for kind in MARKERS if template_source(kind) == tokenizer.chat_template), None)
    # A template that is not ours has no Go translation; such a model is served by llama-server, which reads Jinja.
    if kind is not None:
        has_document_end = DOCUMENT_END in tokenizer.get_vocab()
        stops = [MARKERS[kind].texts["ASSISTANT_STOP"], *([DOCUMENT_END] if has_document_end else [])]
        # If the tokenizer adds the begin-of-text token by itself, the template must not write it a second time.
        begin = tokenizer.encode("a")[:1] != [tokenizer.bos_token_id]
        text = modelfile(file, go_template(kind, begin), stops, context, recipe.data.system, recipe.export.license)
        (directory / "Modelfile").write_text(text, encoding="utf-8")
    script = directory / "llama-server.sh"
    script.write_text(_script(['cd "$(dirname "$0")"'], llama_server(recipe, file, context)), encoding="utf-8")
    script.chmod(0o755)


def context_length(recipe: Recipe, positions: int | None = None) -> int:
    """Tokens that a server offers."""
    wanted = max(CONTEXT, recipe.data.max_length)
    return min(wanted, positions) if positions else wanted


def llama_server(recipe: Recipe, file: str, context: int) -> list[str]:
    """Return the command of llama.cpp's server; --jinja makes it use our template and parse its tool calls."""
    where = ["--host", "127.0.0.1", "--port", str(LLAMA_SERVER_PORT)]
    size = ["--ctx-size", str(context), "--n-gpu-layers", "99"]
    return ["llama-server", "--model", file, "--alias", recipe.full_name, "--jinja", *size, *where]


def vllm_server(recipe: Recipe, adapter: bool) -> list[str]:
    """Return the vLLM command for the merged checkpoint, or for the adapter on its base."""
    common = ["--max-model-len", str(context_length(recipe)), "--port", str(VLLM_PORT)]
    common += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    if not adapter:
        model = recipe.artifact("merged") if recipe.train.lora is not None else recipe.trained
        return ["vllm", "serve", str(model), "--served-model-name", recipe.full_name, *common]
    if recipe.train.lora is None or recipe.model.path is None:
        raise UserError(f"{recipe.full_name} trains all weights, so there is no adapter to serve")
    rank = int(recipe.train.lora.get("r", 8))
    allowed = next((size for size in VLLM_RANKS if size >= rank), None)
    if allowed is None:
        raise CheckRefused(
            f"train.lora.r is {rank}; vLLM serves adapters up to rank {VLLM_RANKS[-1]}; merge it instead"
        )
    lora = ["--enable-lora", "--max-lora-rank", str(allowed), "--lora-modules", f"{recipe.full_name}={recipe.trained}"]
    # the adapter's directory holds the template the model was trained with; the base's own is another
    template = ["--tokenizer", str(recipe.trained), "--chat-template", str(recipe.trained / "chat_template.jinja")]
    revision = ["--revision", recipe.model.revision] if recipe.model.revision else []
    return ["vllm", "serve", recipe.model.path, *revision, *lora, *template, *common]


def dockerfile(recipe: Recipe, name: str) -> str:
    """Return an image that serves the recipe's first quantisation on the CPU, OpenAI-compatible."""
    quantization = recipe.export.gguf[0]
    command = ["agentforge", "serve", name, "--model", quantization, "--host", "0.0.0.0", "--port", "8080"]
    return f"""# docker build -f deploy/Dockerfile -t agentforge .
# docker run -p 8080:8080 -v "$PWD/runs:/app/runs" agentforge
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends g++ git make && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY . .
RUN make setup && make gguf-setup
ENV PATH=/app/.venv/bin:$PATH
EXPOSE 8080
CMD {json.dumps(command)}
"""


def skypilot(recipe: Recipe, name: str) -> str:
    """Return a SkyPilot task that trains, merges and quantises on one H200 and survives preemption.

    The work is done on the machine's own disk and copied to the bucket, because artefacts appear by renaming
    directories, which object stores cannot.
    """
    system = name.partition("/")[0]
    bucket = f"agentforge-{recipe.full_name.lower().replace('.', '-').replace('_', '-')}"
    runs = recipe.output_dir
    return f"""# sky jobs launch deploy/skypilot.yaml --secret HF_TOKEN   (starts again after a preemption)
name: {recipe.full_name.lower().replace(".", "-")}
resources:
  accelerators: H200:1
  disk_size: 1000
  use_spot: true
workdir: .
secrets:
  HF_TOKEN: null
file_mounts:
  /bucket:
    name: {bucket}
    mode: MOUNT_CACHED
setup: |
  set -euo pipefail
  make setup gguf-setup
run: |
  set -euo pipefail
  mkdir -p {runs} /bucket/{runs}
  rsync -a /bucket/{runs}/ {runs}/    # what a preempted machine left; training goes on from its newest checkpoint
  keep() {{ rsync -a --inplace {runs}/ /bucket/{runs}/; }}
  (while sleep 300; do keep; done) &
  trap 'kill %1; keep' EXIT
  make {system}-download {system}-prepare {system}-train {system}-merge {system}-gguf PROFILE=1xh200
"""


def deployment_files(recipe: Recipe, name: str, directory: str = "deploy") -> dict[str, str]:
    """Return file name to content of everything that serves or trains a recipe's model.

    Args:
        recipe: the resolved recipe.
        name: how the recipe is called on the command line.
        directory: named in the files' first line.
    """
    note = GENERATED.format(name=name, directory=directory)
    kind, context = template_kind(recipe), context_length(recipe)
    quantization = recipe.export.gguf[-1]
    file = f"{recipe.full_name}-{quantization}.gguf"
    stops = [MARKERS[kind].texts["ASSISTANT_STOP"]]
    ollama = modelfile(file, go_template(kind), stops, context, recipe.data.system, recipe.export.license)
    place = recipe.artifact(quantization) / file
    usage = f"# Copy it beside {file}, then: ollama create {recipe.name.lower()} -f Modelfile\n"
    files = {
        "Modelfile": note + usage + ollama,
        "llama-server.sh": _script([note.strip()], llama_server(recipe, str(place), context)),
        "vllm.sh": _script([note.strip()], vllm_server(recipe, adapter=False)),
        "Dockerfile": note + dockerfile(recipe, name),
        "skypilot.yaml": note + skypilot(recipe, name),
    }
    if recipe.train.lora is not None:
        files["vllm-lora.sh"] = _script([note.strip()], vllm_server(recipe, adapter=True))
    return files


def template_kind(recipe: Recipe) -> str:
    """Return whose turn markers the recipe's tokenizer has, judged without loading it."""
    if recipe.data.template != "auto":
        return recipe.data.template
    return "deepseek_r1" if "deepseek-r1" in (recipe.model.path or "").lower() else "chatml"


def _script(first: list[str], command: list[str]) -> str:
    """A shell script of one command, an option a line."""
    text = shlex.join(command).replace(" --", " \\\n  --")
    # exec replaces the shell, so that a signal to the script reaches the server.
    return "\n".join(["#!/bin/sh", *first, f"exec {text}"]) + "\n"


def main(arguments: list[str]) -> int:
    """`python -m agentforge.export.deployment RECIPE DIRECTORY [--profile NAME]`."""
    name, directory = arguments
    recipe = load_recipe(name)
    Path(directory).mkdir(parents=True, exist_ok=True)
    for file, text in deployment_files(recipe, name, directory).items():
        path = Path(directory) / file
        path.write_text(text, encoding="utf-8")
        if path.suffix == ".sh":
            path.chmod(0o755)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"agentforge: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
