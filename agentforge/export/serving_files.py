"""How a trained model is served: commands and files written from the recipe, never edited by hand.

Each GGUF artefact gets its Modelfile and llama-server command. `agentforge deploy` (`export.deploy`) writes them and
more for a recipe whose model is not made yet.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentforge.data.chat_template import kind_of
from agentforge.data.own_template import DOCUMENT_END, MARKERS
from agentforge.errors import CheckRefused, UserError
from agentforge.export.ollama import modelfile
from agentforge.recipe.schema import Quantization, Recipe

LLAMA_SERVER_PORT = 8081
VLLM_PORT = 8000
CONTEXT = 8192  # tokens served if the model has them: an agent's conversation outgrows its training rows
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's --max-lora-rank takes; its default is 16
LOOPBACK = "127.0.0.1"
API_PORT = 8080  # of `agentforge serve`


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
    kind = kind_of(tokenizer)
    # A template that is not ours has no Go translation; such a model is served by llama-server, which reads Jinja.
    if kind is not None:
        has_document_end = DOCUMENT_END in tokenizer.get_vocab()
        stops = [MARKERS[kind].texts["ASSISTANT_STOP"], *([DOCUMENT_END] if has_document_end else [])]
        # If the tokenizer adds the begin-of-text token by itself, the template must not write it a second time.
        begin = tokenizer.encode("a")[:1] != [tokenizer.bos_token_id]
        system, license = recipe.data.system, recipe.export.license
        text = modelfile(file, kind, stops, context, system, license, begin)
        (directory / "Modelfile").write_text(text, encoding="utf-8")
    script = directory / "llama-server.sh"
    script.write_text(server_script(['cd "$(dirname "$0")"'], llama_server(recipe, file, context)), encoding="utf-8")
    script.chmod(0o755)


def context_length(recipe: Recipe, positions: int | None = None) -> int:
    """Tokens that a server offers."""
    wanted = max(CONTEXT, recipe.data.max_length)
    return min(wanted, positions) if positions else wanted


def llama_server(recipe: Recipe, file: str, context: int, host: str = LOOPBACK) -> list[str]:
    """Return the command of llama.cpp's server; --jinja makes it use our template and parse its tool calls."""
    where = ["--host", host, "--port", str(LLAMA_SERVER_PORT)]
    size = ["--ctx-size", str(context), "--n-gpu-layers", "99"]
    return ["llama-server", "--model", file, "--alias", recipe.full_name, "--jinja", *size, *where]


def vllm_server(recipe: Recipe, adapter: bool, host: str = LOOPBACK) -> list[str]:
    """Return the vLLM command for the merged checkpoint, or for the adapter on its base.

    Raises:
        UserError: there is no adapter, or one that vLLM does not serve.
    """
    # vLLM listens on every interface if it is not told otherwise.
    common = ["--max-model-len", str(context_length(recipe)), "--host", host, "--port", str(VLLM_PORT)]
    # Other templates have other forms of calls, whose names are vLLM's own; which it is, only the tokenizer says.
    if recipe.data.template in MARKERS:
        common += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    if not adapter:
        model = recipe.artifact("merged") if recipe.train.lora is not None else recipe.trained
        return ["vllm", "serve", str(model), "--served-model-name", recipe.full_name, *common]
    if recipe.train.lora is None or recipe.model.path is None:
        raise UserError(f"{recipe.full_name} trains all weights, so there is no adapter to serve")
    if recipe.data.add_tokens:
        raise CheckRefused("vLLM serves no adapter whose tokens its base lacks (data.add_tokens); merge it instead")
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


def dockerfile(serve: Sequence[str], directory: str, host: str = LOOPBACK, gguf: bool = True) -> str:
    """Return an image that serves a model on the CPU, OpenAI-compatible.

    Args:
        serve: the arguments of `agentforge serve`, without address.
        directory: holds the Dockerfile.
        host: where the port is published; inside the container the server listens on every interface.
        gguf: the model is a GGUF, and needs llama.cpp.
    """
    command = ["agentforge", "serve", *serve, "--host", "0.0.0.0", "--port", str(API_PORT)]
    build = f"docker build -f {shlex.quote(f'{directory}/Dockerfile')} -t agentforge ."
    run = f'docker run -p {host}:{API_PORT}:{API_PORT} -e AGENTFORGE_API_KEY -v "$PWD/runs:/app/runs" agentforge'
    return f"""# {build}
# {run}
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends g++ git make && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY . .
RUN make {"setup gguf-setup" if gguf else "setup"}
ENV PATH=/app/.venv/bin:$PATH
EXPOSE {API_PORT}
CMD {json.dumps(command)}
"""


def template_kind(recipe: Recipe) -> str | None:
    """Return whose turn markers agentforge's template has in this recipe; None: the template is another.

    Judged without loading the tokenizer, so ``auto`` is taken for the base's own.
    """
    return recipe.data.template if recipe.data.template in MARKERS else None


def server_script(first: Sequence[str], command: Sequence[str]) -> str:
    """Return a shell script of one command, an option a line."""
    text = shlex.join(command).replace(" --", " \\\n  --")
    # exec replaces the shell, so that a signal to the script reaches the server.
    return "\n".join(["#!/bin/sh", *first, f"exec {text}"]) + "\n"
