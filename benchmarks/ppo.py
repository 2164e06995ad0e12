"""CPU seconds of a rollout and its updates: PPO against GRPO at equal samples.

One model of 1.1M parameters plays 16 episodes of 3 turns; both are trained on them for 4 passes of one batch, GRPO in
groups of 8. The answers have always their full length, so both read and write the same number of tokens. PPO does more
by a critic (one more forward over a rollout without gradient, and a head on what the policy has computed anyway) and an
entropy bonus. The two take turns, for a machine's speed drifts; the figures are medians over all rollouts but each
turn's first.

    python -m benchmarks.ppo [--turns 3] [--rollouts 4]
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast, PrinterCallback, TrainerCallback

from agentforge.environments.base import Environment, Info, Step
from agentforge.recipe.schema import Recipe
from agentforge.trainers.callbacks.limits import LimitsCallback
from agentforge.trainers.guarded_trainer import RunCounters
from agentforge.trainers.rl.method import RLMethod

EPISODES, TURNS, WRITTEN, HEARD, PASSES, VOCABULARY = 16, 3, 24, 40, 4, 2048
MARKERS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
CONFIG = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "tie_word_embeddings": True,
    "max_position_embeddings": 1024,
}


class Talk(Environment):
    """Says so many words each turn, and rewards a word that begins with 1."""

    id = "benchmark:talk"
    instructions = "talk"

    def __init__(self) -> None:
        self.max_turns = TURNS

    @property
    def tasks(self) -> int:
        return 100

    def reset(self, seed: int, task_id: int) -> str:
        self.turn = self.hits = 0
        return " ".join(str(i) for i in range(HEARD))

    def step(self, text: str) -> Step:
        self.turn += 1
        self.hits += text.startswith("1")
        score = self.hits / TURNS
        info = Info(success=score == 1, valid_action=True, score=score)
        return Step(" ".join(str(i) for i in range(HEARD)), 0.0, self.turn == TURNS, False, info)


class StepTimes(TrainerCallback):
    """CPU seconds of each step, of all threads."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._begun = time.process_time()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(time.process_time() - self._begun)


def write_base(directory: Path) -> None:
    """Write a randomly initialised model whose words are numbers."""
    vocabulary = {word: i for i, word in enumerate([*MARKERS, "<unk>", *map(str, range(VOCABULARY - 4))])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.decoder = decoders.WordPiece(prefix="##")
    words.add_special_tokens(MARKERS)
    config = AutoConfig.for_model("qwen3", vocab_size=VOCABULARY, **CONFIG)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<|endoftext|>", eos_token="<|im_end|>", unk_token="<unk>"
    ).save_pretrained(directory)


def measure(method: str, base: Path, directory: Path, rollouts: int) -> list[list[float]]:
    """Return the seconds of each step of each rollout but the first."""
    args = {"max_steps": PASSES * (rollouts + 1), "per_device_train_batch_size": EPISODES, "save_strategy": "no"}
    own = {"ppo_epochs": PASSES} if method == "ppo" else {"num_iterations": PASSES, "num_generations": 8}
    recipe = Recipe.model_validate(
        {
            "name": method,
            "output_dir": str(directory),
            "model": {"path": str(base), "dtype": "float32"},
            "environments": {"talk": {"class": f"{__name__}:Talk"}},
            "rollouts": {"max_new_tokens": WRITTEN, "max_length": 512, "batch_size": EPISODES},
            "train": {"method": method, "args": args | own, "collapse": None},
        }
    )
    stage, times = RLMethod(recipe), StepTimes()
    stage.args.output_dir = str(directory / "run")
    trainer = stage.make_trainer(directory, RunCounters(), LimitsCallback(recipe.budget, 0.0, 0.0), [times])
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    stage.close()
    steps = times.seconds[PASSES:]
    return [steps[i : i + PASSES] for i in range(0, len(steps), PASSES)]


def main() -> None:
    """Print both methods' medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rollouts", type=int, default=4)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    transformers.utils.logging.disable_progress_bar()
    measured: dict[str, list[list[float]]] = {"grpo": [], "ppo": []}
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary) / "base"
        write_base(base)
        for _ in range(options.turns):
            for method, found in measured.items():
                found += measure(method, base, Path(temporary), options.rollouts)
    whole = {method: statistics.median(sum(steps) for steps in found) for method, found in measured.items()}
    update = {method: statistics.median(s for steps in found for s in steps[1:]) for method, found in measured.items()}
    print("| CPU seconds, median | GRPO | PPO | ratio |\n|---|---|---|---|")
    for name, figures in (("a rollout and its 4 updates", whole), ("an update", update)):
        grpo, ppo = figures["grpo"], figures["ppo"]
        print(f"| {name} | {grpo:.2f} | {ppo:.2f} | {ppo / grpo:.2f} |")


if __name__ == "__main__":
    main()
