"""A sampler that is not the trainer: vLLM, in this process or on a server, with the trainer's weights after each step.

TRL's trainer calls `sync_weights` before it asks for episodes; that is all it knows of a sampler. After every sync the
sampler answers a fixed prompt, and what it says of the tokens that it drew is compared with what the trainer says of
them. A sampler whose weights did not arrive, or arrived wrong, plays another policy than the one that is trained: the
run would go on and learn little, and nobody would know.
"""

from __future__ import annotations

import copy
import gc
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from trl.trainer.utils import ensure_master_addr_port

from agentforge.errors import CheckRefused
from agentforge.recipe.schema import Recipe
from agentforge.rollouts.policies.base import Completion, Request, Sampling
from agentforge.rollouts.policies.vllm_policy import VLLMPolicy, VLLMTokens, import_vllm
from agentforge.rollouts.policies.vllm_server import VLLMServerPolicy, answered, connect
from agentforge.trainers.rl.merged_weights import announced, merged, plain_weights

CANARY = [
    {"role": "user", "content": "Count from one to twenty in words, then say which of them you like best and why."}
]
CANARY_ANSWERS = 8
CANARY_TOKENS = 16
COLOCATED_SHARE = 0.3
"""Of a GPU's memory, beside the weights, gradients and moments of training; TRL's default too."""
BATCHED_TOKENS = 4096
"""Of one pass of the engine: vLLM's own default makes it expect more activations than fit beside a trainer."""


class Sampler(ABC):
    """Writes turns with the trainer's weights as they were at the last sync.

    Args:
        trainer: whose model it follows.
        recipe: how episodes are played.

    Attributes:
        policy: what plays.
        step: of the trainer, at the last sync.
    """

    policy: VLLMTokens

    def __init__(self, trainer: Any, recipe: Recipe) -> None:
        self.trainer = trainer
        self.recipe = recipe
        self.dtype: torch.dtype = getattr(torch, recipe.model.dtype)
        self.step = -1
        self.before_sync: Callable[[], None] | None = None
        self.weights()  # what cannot be merged is refused now, and not after the first rollout

    def sync_weights(self) -> None:
        """Give the sampler the trainer's weights, and see that it has them.

        Raises:
            CheckRefused: it has not.
            MachineRefused: it does not answer.
        """
        if self.before_sync is not None:
            self.before_sync()
        self.send()
        # others must not ask before the main process has sent all
        self.trainer.accelerator.wait_for_everyone()
        self.step = self.trainer.state.global_step
        self.check()

    @abstractmethod
    def send(self) -> None:
        """Give the sampler the weights and let it forget what it has cached of the old ones."""

    def awake(self) -> VLLMTokens:
        """Return the policy, ready to play."""
        return self.policy

    def rest(self) -> None:  # noqa: B027  a server keeps its memory
        """Give the GPU's memory back until the next rollout."""

    def weights(self) -> list[Any]:
        """Return the weights to send, in the order in which they are sent."""
        return plain_weights(self.trainer.model, tuple(self.trainer.extra_modules))

    def check(self) -> None:
        """Compare the sampler with the trainer on the canary.

        Raises:
            CheckRefused: they differ by more than `rollouts.vllm.tolerance` in the mean, on any process.
        """
        # Drawn like a turn, from a prompt that is in the prefix cache if that was not reset, and with the temperature:
        # each of these has been wrong somewhere.
        prompt = self.policy.encode(CANARY)[-(self.policy.context_length - CANARY_TOKENS) :]
        requests = [Request(prompt, CANARY_TOKENS, seed) for seed in range(CANARY_ANSWERS)]
        answers = self.awake().draw(requests, Sampling(CANARY_TOKENS, self.recipe.rollouts.temperature))
        differences = torch.cat([self._difference(prompt, answer) for answer in answers])
        mean, most = differences.mean(), differences.max()
        mean, most = (self.trainer.accelerator.gather(value.reshape(1)).max().item() for value in (mean, most))
        self.trainer.log_metric("sampling/canary", mean)
        tolerance = self.recipe.rollouts.vllm.tolerance
        if not mean <= tolerance:  # NaN is not
            raise CheckRefused(
                f"after the weight sync at step {self.step} vLLM and the trainer differ by {mean:.3g} nats per token "
                f"on a fixed prompt (at most {most:.3g}; rollouts.vllm.tolerance allows {tolerance:g} in the mean), so "
                "vLLM does not play the policy that is trained; stopped, and the newest checkpoint is good"
            )

    def _difference(self, prompt: list[int], answer: Completion) -> torch.Tensor:
        """Return how much sampler and trainer differ on each token of an answer `(T,)`."""
        trainer, device = self.trainer, self.trainer.accelerator.device
        ids = torch.tensor([prompt + answer.token_ids], device=device)
        training = [module for module in trainer.model.modules() if module.training]
        trainer.model.eval()
        try:
            with torch.no_grad():
                scored, _, _ = trainer._get_per_token_logps_and_entropies(
                    trainer.model, ids, torch.ones_like(ids), len(answer.token_ids)
                )
        finally:
            for module in training:  # one by one: a frozen part may have been in evaluation mode before
                module.training = True
        difference: torch.Tensor = (scored[0].float() - torch.tensor(answer.logprobs, device=device)).abs()
        return difference


class ServerSampler(Sampler):
    """`vllm serve`, on other GPUs or another machine; weights go by NCCL, through TRL's client."""

    def __init__(self, trainer: Any, recipe: Recipe) -> None:
        super().__init__(trainer, recipe)
        vllm = recipe.rollouts.vllm
        assert vllm.url is not None, "the section checks it"
        client = connect(
            vllm.url, timeout=vllm.timeout, group_port=vllm.group_port, context_length=recipe.episode_length
        )
        # a tokenizer of its own: episodes may be played in a thread, and a fast tokenizer is not for two of them
        self.policy = VLLMServerPolicy(client, copy.deepcopy(trainer.processing_class), "policy", recipe.episode_length)
        if trainer.accelerator.is_main_process:
            answered(client, lambda: client.init_communicator(device=trainer.accelerator.device))
        trainer.accelerator.wait_for_everyone()

    def send(self) -> None:
        weights = self.weights()
        copies = merged(weights, self.dtype)
        if self.trainer.accelerator.is_main_process:
            client = self.policy.client  # type: ignore[attr-defined]
            answered(client, lambda: client.update_named_params(announced(weights, self.dtype), copies))
            answered(client, client.reset_prefix_cache)
        else:
            for _ in copies:  # to gather a sharded weight takes every process
                pass


class ColocatedSampler(Sampler):
    """An engine in this process, on the GPU that trains; each process has one, and the whole model in it."""

    def __init__(self, trainer: Any, recipe: Recipe) -> None:
        super().__init__(trainer, recipe)
        vllm, accelerator = recipe.rollouts.vllm, trainer.accelerator
        with _as_launched(accelerator):
            engine = import_vllm().LLM(
                model=recipe.model.path,
                revision=recipe.model.revision,
                trust_remote_code=recipe.model.trust_remote_code,
                dtype=recipe.model.dtype,
                gpu_memory_utilization=vllm.gpu_memory_utilization or COLOCATED_SHARE,
                max_model_len=recipe.episode_length,
                max_num_seqs=recipe.rollouts.batch_size,
                max_num_batched_tokens=max(BATCHED_TOKENS, recipe.rollouts.batch_size),
                enable_prefix_caching=True,
                enable_sleep_mode=vllm.sleep,
                distributed_executor_backend="external_launcher",
                logprobs_mode="processed_logprobs",
                seed=accelerator.process_index,
            )
        self.engine: Any = engine
        self.policy = VLLMPolicy(engine, trainer.processing_class, "policy")
        self._asleep = False
        self.rest()
        accelerator.wait_for_everyone()

    def send(self) -> None:
        if self._asleep:
            _free_memory()
            self.engine.wake_up(tags=["weights"])
        model = self.engine.llm_engine.model_executor.driver_worker.model_runner.model
        for named in merged(self.weights(), self.dtype):
            model.load_weights([named])
        if self._asleep:
            _free_memory()
            self.engine.wake_up(tags=["kv_cache"])
            self._asleep = False
        self.engine.reset_prefix_cache()

    def awake(self) -> VLLMTokens:
        if self._asleep:  # a second rollout in the same step: its weights are gone, and TRL sees no reason to sync
            self.sync_weights()
        return self.policy

    def rest(self) -> None:
        if self.recipe.rollouts.vllm.sleep:
            self.engine.sleep(level=2)  # weights are dropped, not kept in the host's memory: they will be others
            self._asleep = True


@contextmanager
def _as_launched(accelerator: Any) -> Iterator[None]:
    """Set what torchrun would have set: by it the engine joins the processes that there are (external_launcher).

    Only meanwhile: the next stage of this process would take itself for one of several.
    """
    before = dict(os.environ)
    os.environ.setdefault("RANK", str(accelerator.process_index))
    os.environ.setdefault("LOCAL_RANK", str(accelerator.local_process_index))
    os.environ.setdefault("WORLD_SIZE", str(accelerator.num_processes))
    ensure_master_addr_port()
    try:
        yield
    finally:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            if name not in before:
                os.environ.pop(name, None)


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def make_sampler(recipe: Recipe) -> Callable[[Any], Sampler] | None:
    """Return what makes the sampler of a trainer; None: the trainer's own model plays."""
    if recipe.rollouts.engine != "vllm":
        return None
    kind = ServerSampler if recipe.rollouts.vllm.mode == "server" else ColocatedSampler
    return lambda trainer: kind(trainer, recipe)
