"""A toy system: a GRU over bytes, with everything of its own that a system may bring. See docs/extending.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from agentforge.recipe.section import Section
from agentforge.systems.base import System


class Echo(Section):
    """The model is also trained to say the byte that it has just read."""

    weight: float = Field(0.1, gt=0)


class ToyTrain(Section):
    echo: Echo | None = None


class ToyData(Section):
    then: str | None = Field(None, description="source of the second half of the training; the first has the others")


class Bits(Section):
    rows: int = Field(20, ge=2)


class ToyEvaluate(Section):
    bits: Bits | None = None


def is_toy(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == "toy_gru"


def gguf_refusal(config: Mapping[str, Any]) -> str:
    return "GGUF has no way to say a GRU over bytes; serve the checkpoint with transformers instead"


SYSTEM = System(
    name="toy_bytes",
    opens=is_toy,
    auto_classes="toy_bytes.modeling",
    tokenizers={"toy_bytes": "toy_bytes.modeling:ByteTokenizer"},
    sections={"train": ToyTrain, "data": ToyData, "evaluate": ToyEvaluate},
    training="toy_bytes.training:training_plan",
    schedule="toy_bytes.training:schedule",
    optimizers={"signum": "toy_bytes.training:make_signum"},
    evaluations={"bits": "toy_bytes.evaluation:evaluate_bits"},
    gguf_refusal=gguf_refusal,
)
