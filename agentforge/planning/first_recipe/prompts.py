"""First prompts of an environment, in the base's tokens: an episode must have room for them and for a turn."""

from __future__ import annotations

import os

from agentforge.data.chat_template import encode_prompt, install_template
from agentforge.data.tokenizer import load_tokenizer
from agentforge.environments.base import EnvironmentFailed
from agentforge.environments.registry import make
from agentforge.environments.splits import task_ids
from agentforge.errors import UserError
from agentforge.rollouts.transcript import Transcript

LOOKED_AT = 20


def longest_prompt(environment_id: str, base: str) -> int | None:
    """Return the tokens of the longest first prompt of some training tasks; None: base or environment is not here.

    Raises:
        UserError: the base has no tokenizer or no chat template.
    """
    if not os.path.isdir(base):
        return None  # a Hub id: `download` is the first stage
    try:
        environment = make(environment_id)
        count = min(LOOKED_AT, environment.tasks // 2)
        begun = [
            Transcript(environment, environment.reset(0, i), "text") for i in task_ids(environment, "train", count)
        ]
        environment.close()
    except (EnvironmentFailed, UserError):
        return None  # it needs a server, files or an extra: `doctor` and the training say so
    tokenizer = load_tokenizer(base)
    install_template(tokenizer, "auto", {})
    return max(len(encode_prompt(tokenizer, transcript.messages)) for transcript in begun)


def episode_length(prompt: int | None, turn: int, positions: int | None, environment: str) -> int:
    """Return `data.max_length` for episodes.

    Args:
        prompt: tokens of the longest first prompt, if they are known.
        turn: tokens of one turn of the model.
        positions: that the base has, if they are known.

    Raises:
        UserError: the base cannot read a prompt and answer it.
    """
    most = min(4096, positions or 4096)
    if prompt is not None and prompt + turn > most:
        needed = f"prompts of {environment} have up to {prompt} tokens, and a turn {turn}"
        if positions is not None and prompt + turn > positions:
            raise UserError(f"{needed}, but the base has positions for only {positions}; name a base that reads more")
        return prompt + 4 * turn if positions is None else min(prompt + 4 * turn, positions)
    return most
