"""Tokens a second of rollouts: `agentforge.rollouts.play` against the generation loop of TRL's GRPOTrainer, and with
the cache that hybrids keep over turns against reading the episode again at each.

The same model (Qwen3, or a hybrid of Mamba-2 and attention; 4 layers of 256, 2048 tokens, trained for a minute so that
it makes calls), the same tasks, the same templates and sampling, one CPU thread. TRL plays through
`environment_factory`, with `generate` for every turn. FalconH1 is transformers' class, with the weights of the Adamba.
Counted are the tokens that the model wrote and the CPU seconds in between, environments included; one is the generation
batch of one training step: 32 episodes at once. The two of a row take turns.

    python -m benchmarks.rollouts [--turns 3] [--models qwen3 adamba falcon_h1]
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import datasets
import torch
import transformers
from transformers import (
    FalconH1Config,
    FalconH1ForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils import get_json_schema

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import qwen3_template

from agentforge.data import chat_template
from agentforge.data.tokenizer import train_tokenizer
from agentforge.environments.actions import find_action
from agentforge.environments.base import Environment, Info, Step
from agentforge.rollouts.environment_pool import EnvironmentPool
from agentforge.rollouts.play import play
from agentforge.rollouts.policies.base import Sampling
from agentforge.rollouts.policies.transformers_policy import TransformersPolicy
from agentforge.rollouts.scheduler import Task
from agentforge.systems.adamba.modeling.configuration import AdambaConfig
from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM

EPISODES = 32
NEW_TOKENS = 64
LENGTH = 2048
CHUNK = 32
"""FalconH1's fastest here; with its default of 256 it is slower in both ways."""
NAMES = {"qwen3": "Qwen3", "adamba": "Adamba", "falcon_h1": "FalconH1"}
SHAPE: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
PLACES = ["the mill", "the old bridge", "a market", "the harbour", "the tower", "an inn", "the well", "a quarry"]
SYSTEM = "You carry letters. Walk to the place that is named, one call a turn, until there are no letters left."


def act(action: str) -> str:
    """Walk to a place.

    Args:
        action: the place.
    """
    raise NotImplementedError


class Errand(Environment):
    """4 to 12 turns: go where the letter goes; the last, without a call, ends it. ``single``: only that last turn."""

    id = "bench:errand"
    instructions = SYSTEM
    action_tool = get_json_schema(act)
    max_turns = 14

    def __init__(self, single: bool = False) -> None:
        self.single = single

    @property
    def tasks(self) -> int:
        return 1 << 20

    def reset(self, seed: int, task_id: int) -> str:
        self.random = Random(task_id)
        self.left = 0 if self.single else 3 + task_id % 9
        return self.observation()

    def observation(self) -> str:
        self.place = self.random.choice(PLACES)
        if not self.left:
            return "There are no letters left. Say what you saw."
        return (
            f"You stand at {self.random.choice(PLACES)}. {self.left} letters are left; the next goes to {self.place}."
        )

    def step(self, text: str) -> Step:
        over = not self.left or find_action(text) is None
        self.left = max(0, self.left - 1)
        info = Info(success=over, valid_action=True, score=float(over))
        return Step("" if over else self.observation(), float(over), over, False, info)


class TRLErrand:
    """The same for TRL: `act` is the tool, and a turn without a call ends the episode."""

    def __init__(self) -> None:
        self.environment = Errand()

    def reset(self, **row: Any) -> None:
        self.environment.reset(0, row["task_id"])

    def act(self, action: str) -> str:
        """Walk to a place.

        Args:
            action: the place.
        """
        return self.environment.step(f"Action: {action}").observation

    def get_reward(self) -> float:
        return 1.0


def written(random: Random) -> str:
    """A thought of very different lengths."""
    return "I see " + " and ".join(random.choice(PLACES) for _ in range(min(9, int(random.expovariate(0.4)) + 1))) + "."


def conversation(task_id: int, single: bool) -> list[dict[str, Any]]:
    """An episode to learn the form from."""
    environment = Errand(single)
    random = Random(-task_id)
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": environment.reset(0, task_id)}]
    while environment.left:
        call = {"type": "function", "function": {"name": "act", "arguments": {"action": environment.place}}}
        messages.append({"role": "assistant", "content": written(random), "tool_calls": [call]})
        messages.append(
            {"role": "tool", "name": "act", "content": environment.step(f"Action: {environment.place}").observation}
        )
    return [*messages, {"role": "assistant", "content": written(random)}]


def untrained(name: str, **tokens: Any) -> Any:
    """A model of 4 layers of 256."""
    torch.manual_seed(0)
    shape = SHAPE | tokens
    if name == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**shape))
    shape |= {"mamba_d_ssm": 512, "mamba_n_heads": 8, "mamba_d_head": 64, "mamba_d_state": 64, "mamba_n_groups": 1}
    if name == "adamba":
        return AdambaForCausalLM(AdambaConfig(**shape))
    return FalconH1ForCausalLM(FalconH1Config(**shape, mamba_chunk_size=CHUNK))


def trained(name: str, steps: int) -> tuple[Any, PreTrainedTokenizerFast]:
    """A model that makes calls, and its tokenizer."""
    conversations = [conversation(task, task % 3 == 0) for task in range(1000, 1000 + 4 * steps)]
    texts = [
        Path(transformers.__file__).read_text(encoding="utf-8"),
        *(str(messages) for messages in conversations[:200]),
    ]
    tokenizer = train_tokenizer(texts, 2048)
    chat_template.install_template(tokenizer)
    tokens = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    model = untrained("adamba" if name == "falcon_h1" else name, **tokens)
    rows = [chat_template.encode(tokenizer, messages, [Errand.action_tool]) for messages in conversations]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for start in range(0, len(rows), 4):
        batch = rows[start : start + 4]
        width = max(len(row.input_ids) for row in batch)
        ids = torch.tensor([row.input_ids + [0] * (width - len(row.input_ids)) for row in batch])
        masks = torch.tensor([row.assistant_masks + [0] * (width - len(row.input_ids)) for row in batch])
        model(input_ids=ids, labels=ids.masked_fill(masks == 0, -100)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if name == "falcon_h1":  # an Adamba is one by its weights, and learns in a fifth of the time
        weights = model.state_dict()
        model = untrained(name, **tokens)
        model.load_state_dict(weights)
    return model, tokenizer


Run = Callable[[int], tuple[int, float]]
"""Plays the tasks of a turn; returns tokens and CPU seconds."""


class ReadsAgain(TransformersPolicy):
    """Reads the whole episode again at each turn."""

    keeps_cache = False


def ours(
    model: Any, tokenizer: PreTrainedTokenizerFast, single: bool, kind: type[TransformersPolicy] = TransformersPolicy
) -> Run:
    policy = kind(model, tokenizer, "policy")
    pool = EnvironmentPool({"errand": {"class": "benchmarks.rollouts:Errand", "single": single}})

    def run(turn: int) -> tuple[int, float]:
        tasks = [Task("errand", task) for task in task_ids(turn)]
        sampling = Sampling(NEW_TOKENS, temperature=1.0, seed=turn)
        started = time.process_time()
        episodes = play(policy, pool, tasks, sampling=sampling, batch_size=EPISODES, max_length=LENGTH, act="tool")
        return sum(sum(episode.mask) for episode in episodes), time.process_time() - started

    return run


def trl(model: Any, tokenizer: PreTrainedTokenizerFast, single: bool, directory: str) -> Run:
    tokenizer.response_template = qwen3_template
    args = GRPOConfig(
        directory,
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=EPISODES,
        num_generations=2,
        max_completion_length=NEW_TOKENS if single else LENGTH,
        temperature=1.0,
        top_k=0,
        report_to=[],
        disable_tqdm=True,
        gradient_checkpointing=False,
        generation_kwargs={} if single else {"max_new_tokens": NEW_TOKENS},
    )
    played = {} if single else {"environment_factory": TRLErrand}
    tools = {"tools": [act]} if single else {}
    trainer = GRPOTrainer(
        model,
        lambda completions, **_: [0.0] * len(completions),
        args,
        datasets.Dataset.from_list(prompts(0, single)),
        processing_class=tokenizer,
        **played,
        **tools,
    )
    generate = trainer._generate
    measured: list[tuple[int, float]] = []

    def timed(prompts: list[Any]) -> Any:
        started = time.process_time()
        made = generate(prompts)
        seconds = time.process_time() - started
        measured.append((sum(map(sum, made[2])), seconds))
        return made

    trainer._generate = timed
    trainer.model.train()

    def run(turn: int) -> tuple[int, float]:
        torch.manual_seed(turn)
        trainer._generate_and_score_completions(prompts(turn, single))
        return measured[-1]

    return run


def task_ids(turn: int) -> range:
    return range(turn * EPISODES, (turn + 1) * EPISODES)


def prompts(turn: int, single: bool) -> list[dict[str, Any]]:
    return [
        {
            "prompt": [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": Errand(single).reset(0, task)},
            ],
            "task_id": task,
        }
        for task in task_ids(turn)
    ]


def race(contestants: Sequence[Run], turns: int) -> tuple[list[float], list[float]]:
    """Take turns; returns the median of the tokens a second, and the mean of the tokens a batch, of each."""
    speeds: list[list[float]] = [[] for _ in contestants]
    tokens = [0] * len(contestants)
    for turn in range(turns + 1):
        for index, run in enumerate(contestants):
            count, seconds = run(turn)
            if turn:  # the first is to warm up
                speeds[index].append(count / seconds)
                tokens[index] += count
    return [statistics.median(each) for each in speeds], [count / turns for count in tokens]


def main() -> None:
    """Take turns and print a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--models", nargs="+", default=["qwen3", "adamba", "falcon_h1"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    print("| model | episodes of | agentforge tokens/s | against | its tokens/s | times | tokens a batch: ours, its |")
    print("|---|---|--:|---|--:|--:|---|")
    for name in options.models:
        model, tokenizer = trained(name, options.steps)
        for single in (False, True):
            with tempfile.TemporaryDirectory() as directory:
                mine = ours(model, tokenizer, single)
                if name == "qwen3":
                    against, other = "TRL", trl(model, tokenizer, single, directory)
                else:
                    against, other = "reading again", ours(model, tokenizer, single, ReadsAgain)
                (fast, slow), tokens = race((mine, other), options.turns)
            kind = "one turn" if single else "4 to 12 turns"
            means = ", ".join(f"{count:.0f}" for count in tokens)
            print(
                f"| {NAMES[name]} | {kind} | {fast:.0f} | {against} | {slow:.0f} | {fast / slow:.1f} | {means} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
