"""The training methods, one line each. Schema, argument checks, planning, `train` and the tests all read this table.

To add a method: write a subclass of `trainers.method.Method`, add its line here, and run
``python -m agentforge.trainers.field_tables`` if its config class is new.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agentforge.references import Reference


@dataclass(frozen=True)
class MethodSpec:
    """What the rest of the package must know about a method without importing it.

    Attributes:
        config: class whose fields `train.args` may hold; `recipe/tables` has a file of this name.
        implementation: the `trainers.method.Method` that runs it. Imported when it is used: each brings a part of TRL.
        reads: ``documents`` and ``conversations`` are rows of `prepare`, ``pairs`` are episodes of `collect`, and
            ``environments`` are played while training.
    """

    config: str
    implementation: Reference
    reads: Literal["documents", "conversations", "pairs", "environments"]

    @property
    def supervised(self) -> bool:
        """Whether it trains on the rows of `prepare`."""
        return self.reads in ("documents", "conversations")

    @property
    def plays(self) -> bool:
        """Whether the model plays episodes while it is trained."""
        return self.reads == "environments"


_SUPERVISED = "agentforge.trainers.supervised.method:SupervisedMethod"
_PREFERENCE = "agentforge.trainers.preference.method:PreferenceMethod"
_RL = "agentforge.trainers.rl.method:RLMethod"

METHODS: dict[str, MethodSpec] = {
    "pretrain": MethodSpec("TrainingArguments", _SUPERVISED, "documents"),
    "sft": MethodSpec("SFTConfig", _SUPERVISED, "conversations"),
    "dpo": MethodSpec("DPOConfig", _PREFERENCE, "pairs"),
    "kto": MethodSpec("KTOConfig", _PREFERENCE, "pairs"),
    "grpo": MethodSpec("GRPOConfig", _RL, "environments"),
    "ppo": MethodSpec("PPOConfig", _RL, "environments"),
}


def config_classes() -> tuple[str, ...]:
    """Return the config classes of all methods, each once."""
    return tuple(dict.fromkeys(spec.config for spec in METHODS.values()))
