"""A base of a few thousand weights, an environment that it can learn in seconds, and recipes for them."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from agentforge.data.chat_template import encode, install_template
from agentforge.environments.base import Environment, EnvironmentFailed, Step
from agentforge.recipe.schema import Recipe

WORDS = ["red", "green", "blue", "black", "go", "left", "right", "stop", "say", "the", "colour", "wrong", "fine"]
COLOURS = WORDS[:4]
MARKERS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
ROLES = ["system", "user", "assistant", "\n", " "]


def toy_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of a few words with ChatML's markers."""
    vocabulary = {word: i for i, word in enumerate(["<unk>", *MARKERS, *ROLES, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    words.decoder = decoders.Fuse()
    words.add_special_tokens(MARKERS)
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<|endoftext|>", eos_token="<|im_end|>", unk_token="<unk>"
    )


def write_base(directory: Path, seed: int = 0) -> Path:
    """Write a model of two layers that answers any colour with some colour, and its tokenizer."""
    tokenizer = toy_tokenizer()
    torch.manual_seed(seed)
    random = Random(seed)
    config = AutoConfig.for_model(
        "qwen3",
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        tie_word_embeddings=True,
        max_position_embeddings=256,
    )
    model = AutoModelForCausalLM.from_config(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    install_template(tokenizer)
    system = {"role": "system", "content": Colours.instructions}
    for _ in range(50):
        rows = []
        for _ in range(16):
            said = [random.choice(COLOURS) for _ in range(4)]
            turns = [{"role": ("user", "assistant")[i % 2], "content": word} for i, word in enumerate(said)]
            row = encode(tokenizer, [system, *turns])
            rows.append((row.input_ids, row.assistant_masks))
        ids, mask = (torch.tensor(column) for column in zip(*rows, strict=True))
        loss = model(input_ids=ids, labels=ids.where(mask == 1, -100)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


class Colours(Environment):
    """Name the colour that was said, so many times; each task is one colour, the reward comes with each turn.

    Args:
        colours: how many are asked for.
        rounds: turns of an episode.
        size: tasks.
        broken: fails in every task whose number can be divided by this; 0: in none.
    """

    id = "toy:colours"
    instructions = "say the colour"
    action_tool: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, colours: int = 2, rounds: int = 2, size: int = 40, broken: int = 0) -> None:
        self.colours = colours
        self.rounds = self.max_turns = rounds
        self.size = size
        self.broken = broken

    @property
    def tasks(self) -> int:
        return self.size

    def difficulty(self, task_id: int) -> int:
        return task_id % self.colours

    def reset(self, seed: int, task_id: int) -> str:
        if self.broken and task_id % self.broken == 0:
            raise EnvironmentFailed("the paint is dry")
        self.colour = COLOURS[task_id % self.colours]
        self.turn = self.right = 0
        return self.colour

    def step(self, text: str) -> Step:
        self.turn += 1
        hit = text.strip() == self.colour
        self.right += hit
        over = self.turn == self.rounds
        score = self.right / self.rounds
        valid = text.strip() in COLOURS
        info = {"success": over and score == 1, "valid_action": valid, "score": score if over else score / 2}
        return Step(self.colour, float(hit), over, False, info)  # type: ignore[arg-type]

    def baseline(self, name: str, random: Random) -> str:
        return random.choice(COLOURS)


def toy_recipe(base: Path, directory: Path, method: str, name: str | None = None, **sections: Any) -> Recipe:
    """Return a recipe that plays `Colours` with one colour; keywords are its sections."""
    args = {
        "learning_rate": 3e-3,
        "lr_scheduler_type": "constant",
        "max_steps": 4,
        "per_device_train_batch_size": 16,
        "save_steps": 100,
    }
    if method == "grpo":
        args |= {"num_generations": 8, "num_iterations": 2}
    train = sections.pop("train", {})
    return Recipe.model_validate(
        {
            "name": name or method,
            "output_dir": str(directory),
            "model": {"path": str(base), "dtype": "float32"},
            "data": {"max_length": 64},
            "environments": {"colours": {"class": "tests.trainers.toys:Colours", "colours": 1}},
            "rollouts": {"max_new_tokens": 4, "batch_size": 32},
            "train": {"method": method, "collapse": None, **train, "args": args | train.get("args", {})},
            **sections,
        }
    )
