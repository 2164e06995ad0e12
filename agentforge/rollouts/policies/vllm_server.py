"""A policy whose turns are written by `vllm serve`, through TRL's client: token ids and log-probabilities over HTTP."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

from agentforge.errors import MachineRefused, UserError, first_line
from agentforge.rollouts.policies.base import Completion, Decoder, Request, Sampling
from agentforge.rollouts.policies.vllm_policy import VLLMTokens, import_vllm

CONNECTIONS = 64
"""Requests at once outside a decoder, as many as TRL's client keeps connections."""
READ_SECONDS = 1800
"""For one turn. A full server may take minutes; one that takes longer hangs, and the run must end, not wait."""
START = (
    'VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --weight-transfer-config \'{"backend": "nccl"}\' '
    "--logprobs-mode processed_logprobs"
)
Answer = TypeVar("Answer")


class VLLMServerPolicy(VLLMTokens):
    """A model on a server. Each turn is a request of its own, so the server decides what is computed together.

    Args:
        client: `trl.generation.vllm_client.VLLMClient`.
        tokenizer: with a chat template.
        label: see `ModelLocation`.
        context_length: tokens read and written at most.
    """

    def __init__(self, client: Any, tokenizer: Any, label: str, context_length: int) -> None:
        super().__init__(tokenizer, label, context_length)
        self.client = client

    def draw(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        with ThreadPoolExecutor(max(1, min(CONNECTIONS, len(requests)))) as threads:
            return list(threads.map(lambda request: self.turn(request, sampling), requests))

    @contextmanager
    def decoder(self, sampling: Sampling, slots: int) -> Iterator[Decoder]:
        threads = ThreadPoolExecutor(slots)
        try:
            yield ServerDecoder(self, sampling, threads)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)  # after Ctrl-C nobody waits for the turns of others

    def turn(self, request: Request, sampling: Sampling) -> Completion:
        """Write one turn.

        Raises:
            MachineRefused: the server does not answer.
        """
        # TRL's `generate` asks the same, but drops why an answer ended: one that was broken off would look finished.
        payload = {
            "model": self.client.model,
            "prompt": [list(request.token_ids)],
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            **self.settings(request, sampling),
        }
        url = f"{self.client.base_url}/v1/completions"
        reply = answered(self.client, lambda: self.client._post(url, json=payload, timeout=READ_SECONDS))
        (choice,) = reply["choices"]
        logprobs = (choice["logprobs"] or {}).get("token_logprobs") or []
        # A NaN does not pass through JSON; as one it is seen by whatever reads it.
        values = [math.nan if value is None else float(value) for value in logprobs]
        return self.completion(choice["token_ids"] or [], values, choice["finish_reason"])


class ServerDecoder(Decoder):
    """Turns as requests in threads; the first to be answered is the first to go on."""

    def __init__(self, policy: VLLMServerPolicy, sampling: Sampling, threads: ThreadPoolExecutor) -> None:
        self.policy = policy
        self.sampling = sampling
        self._threads = threads
        self._asked: dict[Future[Completion], int] = {}

    def begin(self, slot: int, request: Request) -> None:
        self._asked[self._threads.submit(self.policy.turn, request, self.sampling)] = slot

    def advance(self) -> list[tuple[int, Completion]]:
        answered_now = wait(self._asked, return_when=FIRST_COMPLETED).done
        return [(self._asked.pop(future), future.result()) for future in sorted(answered_now, key=self._asked.get)]  # type: ignore[arg-type]


def connect(url: str, *, timeout: float, group_port: int, context_length: int) -> Any:
    """Return TRL's client of a server that can be sampled from in training.

    Raises:
        UserError: vLLM is not installed here, or the server was started without what training needs.
        MachineRefused: there is no server.
    """
    import_vllm()
    from trl.generation.vllm_client import VLLMClient

    try:
        client = VLLMClient(base_url=url.rstrip("/"), group_port=group_port, connection_timeout=timeout)
    except OSError as error:  # requests' errors are, too
        raise MachineRefused(f"no vLLM server answers at {url}; start one: {START}") from error
    try:
        config = client.get_server_info()
    except RuntimeError as error:  # TRL's sentence on VLLM_SERVER_DEV_MODE
        raise UserError(
            f"the vLLM server at {url} was started without what training needs; start it by: {START}"
        ) from error
    if config["weight_transfer_config"] is None:
        raise UserError(f"the vLLM server at {url} cannot be given weights; start it by: {START}")
    model = config["model_config"]
    if model["logprobs_mode"] != "processed_logprobs":
        raise UserError(
            f"the vLLM server at {url} returns {model['logprobs_mode']}, which are not those that tokens are drawn "
            "with; start it with --logprobs-mode processed_logprobs"
        )
    if model["max_model_len"] < context_length:
        raise UserError(
            f"the vLLM server at {url} reads {model['max_model_len']} tokens and an episode may have {context_length}; "
            f"start it with --max-model-len {context_length}, or lower rollouts.max_length"
        )
    return client


def answered(client: Any, ask: Callable[[], Answer]) -> Answer:
    """Return what the server answers.

    Raises:
        MachineRefused: it is gone, hangs, or answers with an error.
    """
    try:
        return ask()
    except UserError:
        raise
    except Exception as error:  # TRL raises plain `Exception` for a status other than 200
        raise MachineRefused(
            f"the vLLM server at {client.base_url} failed: {first_line(error)}; look at its log, and run the same "
            "command again when it is up: training goes on from the newest checkpoint"
        ) from error
