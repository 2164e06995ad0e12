"""The same environments behind TRL's own generation loop."""

from __future__ import annotations

import warnings
from pathlib import Path

from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import GRPOConfig

from agentforge.data.tokenizer import load_tokenizer
from agentforge.trainers.guarded_trainer import Guards
from agentforge.trainers.rl.grpo import GRPOTrainer
from agentforge.trainers.rl.tool_environment import read_tool_calls, tool_environment

ADD = {"class": "tests.rollouts.toys:Add"}


def test_an_episode_by_tool_calls() -> None:
    environment = tool_environment("add", ADD)()
    assert environment.reset(task_id=34, prompt="anything") == "3 + 4"
    assert environment.act("8") == "Wrong." and environment.get_reward() == 0
    assert environment.act("7") == "The task is over." and environment.get_reward() == 0
    environment.reset(task_id=34)
    assert environment.act("7") == "Right." and environment.get_reward() == 1


def test_grpo_takes_it_as_an_environment_factory(talking_checkpoint: Path, tmp_path: Path) -> None:
    args = GRPOConfig(
        str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=2,
        num_generations=2,
        max_completion_length=12,
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        report_to=[],
        disable_tqdm=True,
        logging_steps=1,
    )
    prompt = [{"role": "user", "content": "Add: "}]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(talking_checkpoint),
            args=args,
            train_dataset=Dataset.from_list([{"prompt": prompt, "task_id": i} for i in range(4)]),
            processing_class=read_tool_calls(load_tokenizer(talking_checkpoint)),
            environment_factory=tool_environment("add", ADD),
            guards=Guards(),
        )
        trainer.train()
    (line,) = [line for line in trainer.state.log_history if "reward" in line]
    assert "tools/call_frequency" in line and line["rewards/ToolEnvironment/mean"] == line["reward"]
    assert trainer.counters.trained_tokens > 0
