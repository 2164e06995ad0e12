"""Our environments as TRL's `environment_factory` wants them: one tool, `act`, that TRL's own generation loop calls.

For a script of one's own around `GRPOTrainer`; recipes play through `Rollouts`, which ends an episode when the
environment does, keeps each turn's reward, and does not read the whole episode again for every turn.
"""

from __future__ import annotations

import json
from typing import Any

from transformers import PreTrainedTokenizerBase

from agentforge.environments.actions import ACT
from agentforge.environments.registry import make


def tool_environment(name: str, options: dict[str, Any] | None = None) -> type:
    """Return a class for `environment_factory`. A row of the data set needs `prompt`, `task_id` and, if wanted, `seed`.

    Args:
        name: of the environment, see `registry.make`.
        options: arguments of its constructor.
    """

    class ToolEnvironment:
        """One episode at a time; TRL makes as many as play at once, and turns `act` into the tool."""

        def __init__(self) -> None:
            self._environment = make(name, options)
            self._over, self._score = False, 0.0

        def reset(self, task_id: int, seed: int = 0, **row: Any) -> str:
            """Begin an episode; TRL appends what this returns to the prompt."""
            self._over, self._score = False, 0.0
            return self._environment.reset(seed, task_id)

        def act(self, action: str) -> str:
            """Do one action in the environment.

            Args:
                action: The action, in the grammar of the instructions.

            Returns:
                What the environment answers.
            """
            if self._over:  # TRL goes on until the model stops calling
                return "The task is over."
            call = json.dumps({"name": ACT, "arguments": {"action": action}}, ensure_ascii=False)
            step = self._environment.step(f"<tool_call>\n{call}\n</tool_call>")
            self._over, self._score = step.terminated or step.truncated, step.info["score"]
            return step.observation

        def get_reward(self) -> float:
            """Return the score of the episode, as the reward `outcome` does."""
            return self._score

    return ToolEnvironment


def read_tool_calls(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Let TRL read the calls that agentforge's templates have models write: they have Qwen 3's form."""
    from trl.chat_template_utils import qwen3_template

    tokenizer.response_template = qwen3_template
    return tokenizer
