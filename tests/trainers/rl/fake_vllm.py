"""Two stand-ins for vLLM, which needs a GPU: a server that speaks the protocol of TRL's client, and the module itself.

Both answer with a small model of transformers that has weights of its own, so that a weight which does not arrive is
seen in what is sampled. The server gets weights as vLLM's workers do: the trainer announces names, dtypes and shapes by
HTTP, and sends the bytes by another way, here a socket in the place of NCCL.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.generation import vllm_client

from agentforge.data.chat_template import install_template
from agentforge.rollouts.policies.base import Completion, Request, Sampling
from agentforge.rollouts.policies.transformers_policy import TransformersPolicy


class Sampled:
    """A model that is sampled from, and what is done to its weights.

    Attributes:
        ignores: updates are accepted and thrown away.
        spoils: the tensor of this name arrives changed.
        aborts: every so many answers one is broken off; 0: none.
        events: what was asked of it, in order.
    """

    def __init__(self, path: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(path)
        install_template(tokenizer)
        self.policy = TransformersPolicy(self.model, tokenizer, "fake")
        self.ignores = False
        self.spoils: str | None = None
        self.aborts = 0
        self.answers = 0
        self.events: list[str] = []
        self.lock = threading.Lock()

    def answer(self, settings: dict[str, Any], ids: list[int]) -> tuple[Completion, str]:
        """Return an answer and vLLM's reason of its end."""
        sampling = Sampling(settings["max_tokens"], settings["temperature"], settings["top_p"])
        with self.lock:
            (written,) = self.policy.draw([Request(ids, settings["max_tokens"], settings["seed"])], sampling)
            self.answers += 1
            if self.aborts and self.answers % self.aborts == 0:
                return Completion(written.token_ids[:1], False, written.logprobs[:1]), "abort"
        assert settings["logprobs"] == 0 and settings["ignore_eos"] and written.token_ids
        assert settings["stop_token_ids"] == self.policy.stop_ids
        return written, "stop" if written.stopped else "length"

    def load(self, name: str, weight: torch.Tensor) -> None:
        if self.ignores:
            return
        mine = self.model.get_parameter(name)  # vLLM, too, stops at a name that it does not know
        assert mine.shape == weight.shape, name
        with torch.no_grad():
            mine.copy_(weight * 1.5 if name == self.spoils else weight)


class FakeServer(Sampled):
    """`vllm serve` with its development endpoints."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.config: dict[str, Any] = {
            "weight_transfer_config": {"backend": "nccl"},
            "model_config": {"logprobs_mode": "processed_logprobs", "max_model_len": 128},
        }
        self.worker: socket.socket | None = None
        self.updating = False

    def get(self, path: str) -> dict[str, Any] | None:
        if path == "/health":
            return {}
        if path == "/v1/models":
            return {"data": [{"id": "base"}]}
        if path == "/get_world_size":
            return {"world_size": 1}
        return {"vllm_config": self.config} if path.startswith("/server_info") and self.config else None

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        if path == "/v1/completions":
            return self.complete(body)
        self.events.append(path.removeprefix("/"))
        if path == "/init_weight_transfer_engine":
            self.join(**body["init_info"])
        elif path == "/start_weight_update":
            assert not self.updating
            self.updating = True
        elif path == "/update_weights":
            self.receive(**body["update_info"])
        elif path == "/finish_weight_update":
            assert self.updating
            self.updating = False
        elif path == "/reset_prefix_cache":
            return {"success": True}
        else:
            return None
        return {"message": "done"}

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        assert body["return_token_ids"] and body["return_tokens_as_token_ids"] and body["model"] == "base"
        assert not self.updating, "nobody samples while weights change"
        (ids,) = body["prompt"]
        written, reason = self.answer(body, ids)
        return {
            "choices": [
                {
                    "token_ids": written.token_ids,
                    "prompt_token_ids": ids,
                    "finish_reason": reason,
                    "logprobs": {
                        "tokens": [f"token_id:{token}" for token in written.token_ids],
                        "token_logprobs": written.logprobs,
                        "top_logprobs": [None for _ in written.token_ids],
                    },
                }
            ]
        }

    def join(self, master_address: str, master_port: int, rank_offset: int, world_size: int, packed: bool) -> None:
        """Join the trainer's group; like NCCL's rendezvous this blocks until it is there."""
        assert rank_offset == 1 and world_size == 2 and packed
        deadline = time.monotonic() + 20
        while self.worker is None:
            try:
                self.worker = socket.create_connection((master_address, master_port), timeout=5)
            except OSError:
                assert time.monotonic() < deadline, "no trainer"
                time.sleep(0.01)

    def receive(self, names: list[str], dtype_names: list[str], shapes: list[list[int]]) -> None:
        assert self.updating and self.worker is not None
        with self.worker.makefile("rb") as file:
            for name, dtype_name, shape in zip(names, dtype_names, shapes, strict=True):
                dtype = getattr(torch, dtype_name)
                size = math.prod(shape) * dtype.itemsize
                self.load(name, torch.frombuffer(bytearray(file.read(size)), dtype=dtype).reshape(shape))


class Group:
    """The trainer's side of the group (`vllm.distributed.weight_transfer`), over a socket."""

    def __init__(self, init_info: dict[str, Any]) -> None:
        with socket.create_server((init_info["master_address"], init_info["master_port"])) as listening:
            listening.settimeout(20)
            self.connection, _ = listening.accept()
        self.group = SimpleNamespace(store=None, socket=None)

    def broadcast(self, tensor: torch.Tensor) -> None:
        self.connection.sendall(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())


def send_packed(
    iterator: Iterator[tuple[str, torch.Tensor]], group: Group, src: int, post_iter_func: Callable[[Any], torch.Tensor]
) -> None:
    assert src == 0
    for item in iterator:
        group.broadcast(post_iter_func(item))


@contextmanager
def serving(server: FakeServer) -> Iterator[str]:
    """Yield the server's address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.reply(server.get(self.path))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.reply(server.post(self.path, json.loads(body or b"{}")))

        def reply(self, answer: dict[str, Any] | None) -> None:
            data = json.dumps(answer).encode()
            self.send_response(404 if answer is None else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}"
    finally:
        httpd.shutdown()
        httpd.server_close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def stand_in(name: str) -> ModuleType:
    importlib.import_module("trl.trainer.grpo_trainer")  # before, for it would use whatever is called vllm
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)  # others ask for it when they look for packages
    return module


def install_client(patch: pytest.MonkeyPatch) -> None:
    """Let TRL's client find a vLLM of 0.28, and a GPU to send weights from."""
    module = vllm_client
    patch.setitem(sys.modules, "vllm", stand_in("vllm"))
    patch.setattr(module, "is_vllm_available", lambda *_, **__: True)
    patch.setattr(module, "_HAS_STATEFUL_TRAINER_ENGINE", True)
    patch.setattr(module, "_HAS_RESET_PREFIX_CACHE_SUCCESS", True)
    patch.setattr(module, "get_ip", lambda: "127.0.0.1", raising=False)
    patch.setattr(module, "open_trainer_endpoint", Group, raising=False)
    patch.setattr(module, "packed_nccl_broadcast_producer", send_packed, raising=False)
    join = module.VLLMClient.init_communicator
    patch.setattr(module.VLLMClient, "init_communicator", lambda self, device: join(self, torch.device("cuda")))


class FakeLLM(Sampled):
    """`vllm.LLM` in this process, asleep and awake."""

    made: list[FakeLLM]

    def __init__(self, model: str, **options: Any) -> None:
        super().__init__(Path(model))
        self.options = options
        self.launched = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
        self.parts = {"weights", "kv_cache"}
        self.waiting: dict[str, tuple[dict[str, Any], list[int]]] = {}
        runner = SimpleNamespace(model=self)
        executor = SimpleNamespace(driver_worker=SimpleNamespace(model_runner=runner))
        self.llm_engine = SimpleNamespace(
            model_config=SimpleNamespace(max_model_len=options["max_model_len"]),
            model_executor=executor,
            add_request=self.add_request,
            step=self.step,
        )
        type(self).made.append(self)

    def load_weights(self, weights: list[tuple[str, torch.Tensor]]) -> None:
        assert "weights" in self.parts, "there is no memory to load them into"
        for name, weight in weights:
            self.load(name, weight)

    def sleep(self, level: int = 1) -> None:
        assert self.options["enable_sleep_mode"] and level == 2 and not self.waiting
        self.events.append("sleep")
        self.parts.clear()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.zero_()

    def wake_up(self, tags: list[str] | None = None) -> None:
        assert tags is not None
        self.events.append(f"wake {tags[0]}")
        self.parts |= set(tags)

    def reset_prefix_cache(self) -> bool:
        self.events.append("reset")
        return True

    def generate(self, prompts: list[Any], sampling_params: Any, **options: Any) -> list[Any]:
        return [
            self.output("", vars(one), prompt["prompt_token_ids"])
            for one, prompt in zip(sampling_params, prompts, strict=True)
        ]

    def add_request(self, request_id: str, prompt: dict[str, Any], params: Any, *, lora_request: Any = None) -> str:
        assert params.output_kind == "final" and lora_request is None and request_id not in self.waiting
        self.waiting[request_id] = (vars(params), prompt["prompt_token_ids"])
        return request_id

    def step(self) -> list[Any]:
        name = next(iter(self.waiting))
        return [self.output(name, *self.waiting.pop(name))]

    def output(self, name: str, settings: dict[str, Any], ids: list[int]) -> Any:
        assert self.parts == {"weights", "kv_cache"}, "it sleeps"
        written, reason = self.answer(settings, ids)
        logprobs = [
            {token: SimpleNamespace(logprob=value)}
            for token, value in zip(written.token_ids, written.logprobs, strict=True)
        ]
        output = SimpleNamespace(token_ids=written.token_ids, logprobs=logprobs, finish_reason=reason)
        return SimpleNamespace(request_id=name, finished=True, outputs=[output])


def install_module(patch: pytest.MonkeyPatch) -> None:
    """Put a module `vllm` in the place of the real one."""
    FakeLLM.made = []
    module, parameters = stand_in("vllm"), stand_in("vllm.sampling_params")
    module.LLM, module.SamplingParams = FakeLLM, SimpleNamespace  # type: ignore[attr-defined]
    parameters.RequestOutputKind = SimpleNamespace(FINAL_ONLY="final")  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "vllm", module)
    patch.setitem(sys.modules, "vllm.sampling_params", parameters)
