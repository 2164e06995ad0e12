"""llama-server's chat code without the server: compiled once from the source that `make gguf-setup` unpacks."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock

from agentforge.export.llama_cpp import converter_source, source_directory
from agentforge.file_hashes import sha256_file

PROGRAM = Path(__file__).with_name("llama_chat.cpp")
NEEDED = ("chat*.cpp", "common.cpp", "json*.cpp", "log.cpp", "peg-parser.cpp", "trie.cpp", "unicode.cpp")
FOLDERS = ("jinja/*.cpp", "parsers/*.cpp")


def chat_program() -> Path:
    """Return the compiled program, which lies in agentforge's cache; the first call takes minutes of CPU time."""
    made = source_directory() / f"llama-chat-{sha256_file(PROGRAM)[:12]}"
    with FileLock(f"{made}.lock"):
        if not made.is_file():
            _compile(made)
    return made


def _compile(made: Path) -> None:
    common = converter_source() / "common"
    tree = common.parent
    includes = [common, tree / "include", tree / "ggml" / "include", tree / "vendor", tree]
    # common.cpp also loads models and samples. The linker drops what this program does not reach, so what
    # only that needs may be missing.
    flags = ["-std=c++17", "-O0", "-ffunction-sections", "-fdata-sections", *(f"-I{folder}" for folder in includes)]
    build = made.with_suffix(".build")
    build.mkdir(exist_ok=True)
    objects = []
    for source in [PROGRAM, *sorted(file for name in (*NEEDED, *FOLDERS) for file in common.glob(name))]:
        objects.append(build / f"{source.parent.name}-{source.stem}.o")
        if not objects[-1].is_file():
            partial = objects[-1].with_suffix(".partial")
            subprocess.run(["g++", *flags, "-c", str(source), "-o", str(partial)], check=True, capture_output=True)
            partial.rename(objects[-1])
    found = find_spec("llama_cpp")
    assert found is not None and found.origin is not None
    libraries = Path(found.origin).parent / "lib"
    link = [f"-L{libraries}", "-lllama", "-lggml", "-lggml-base", "-lggml-cpu", f"-Wl,-rpath,{libraries}", "-lpthread"]
    partial = made.with_suffix(".partial")
    command = ["g++", *map(str, objects), "-o", str(partial), *link, "-Wl,--gc-sections"]
    subprocess.run(command, check=True, capture_output=True)
    subprocess.run([partial], input=b"", check=True)
    partial.rename(made)
    shutil.rmtree(build)


def ask(program: Path, requests: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what llama-server makes of each: prompt, format, preserved tokens and the parsed message, or an error."""
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run([program], input=lines, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def request(
    template: str, begin: str, end: str, messages: Sequence[Any], tools: Sequence[Any] | None, text: str
) -> dict[str, Any]:
    """Return one line for the program.

    Args:
        messages: before the turn.
        text: what the model wrote, without its stop token.
    """
    fields = {"template": template, "bos": begin, "eos": end, "tools": list(tools or []), "text": text}
    return fields | {"messages": _as_clients_send(messages)}


def _as_clients_send(messages: Sequence[Any]) -> list[dict[str, Any]]:
    """Return messages in OpenAI's form: arguments as JSON text, calls and results with ids as training numbers them."""
    sent, count, open_calls = [], 0, list[str]()
    for message in messages:
        turn = dict(message)
        if message["role"] == "tool":
            turn["tool_call_id"] = open_calls.pop(0)
        if "tool_calls" in message:
            turn["tool_calls"] = []
            for call in message["tool_calls"]:
                count += 1
                open_calls.append(f"{count:09}")
                function = call["function"] | {"arguments": json.dumps(call["function"]["arguments"])}
                turn["tool_calls"].append({**call, "id": open_calls[-1], "function": function})
        sent.append(turn)
    return sent
