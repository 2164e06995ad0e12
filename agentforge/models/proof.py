"""The proof of `surgery`: the logits of two models on the same tokens, on the CPU, where both round the same way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from agentforge.data.tokenizer import BATTERY, open_tokenizer
from agentforge.errors import CheckRefused
from agentforge.models.auto import load_config

ROW_LENGTH = 160
"""More than a chunk of any scan, so that the state that chunks hand on is in it."""


@dataclass(frozen=True)
class Proof:
    """How far a new model's logits are from the old one's.

    Attributes:
        max_logit_difference: greatest absolute difference.
        bound: greatest difference that was allowed.
        largest_logit: greatest absolute logit of the old model, for scale.
        tokens: positions compared.
        dtype: in which both were computed.
    """

    max_logit_difference: float
    bound: float
    largest_logit: float
    tokens: int
    dtype: str = "float32"

    def as_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return asdict(self)


def random_rows(vocabulary: int, seed: int, count: int = 3) -> list[list[int]]:
    """Return rows of random tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocabulary, (count, ROW_LENGTH), generator=generator).tolist()


def load(directory: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Load a causal language model with the class that transformers takes for it.

    Raises:
        CheckRefused: weights are missing or left over, which transformers would only warn about.
    """
    load_config(directory)  # makes transformers know the type of a nanochat graft
    loaded: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, output_loading_info=True)
    model, report = loaded
    if problems := sorted(map(str, {*report["missing_keys"], *report["unexpected_keys"]})):
        raise CheckRefused(f"{directory}: {len(problems)} weights do not fit its config; the first is {problems[0]}")
    return model.eval()


def logits_of(model: Any, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return the logits `(T, V)` of each row."""
    with torch.inference_mode():
        return [model(input_ids=torch.tensor([list(row)]), use_cache=False).logits[0] for row in rows]


def compare(old: Sequence[Tensor], new: Sequence[Tensor], bound: float) -> Proof:
    """Return the proof that two models' logits agree.

    Args:
        old: logits `(T, V)` of each row.
        new: those of the other model.
        bound: of the differences; times the largest logit where that is above 1, as rounding grows with it.

    Raises:
        CheckRefused: they differ by more than ``bound``, or are not finite.
    """
    difference = max(float((a - b).abs().max()) for a, b in zip(old, new, strict=True))
    largest = max(float(a.abs().max()) for a in old)
    dtype = str(old[0].dtype).removeprefix("torch.")
    proof = Proof(difference, bound * max(1.0, largest), largest, sum(len(a) for a in old), dtype)
    if not difference <= proof.bound:  # also where it is NaN
        raise CheckRefused(
            f"the new model's logits differ from the old one's by up to {difference:.3g} on {proof.tokens} tokens "
            f"(the largest logit is {largest:.3g}), but only {proof.bound:.3g} is allowed; nothing was published"
        )
    return proof


def proof_rows(base: Path, vocabulary: int, seed: int) -> list[list[int]]:
    """Return random rows, and one of text that breaks tokenizers if the base has a tokenizer."""
    rows = random_rows(vocabulary, seed)
    if (base / "tokenizer_config.json").is_file():
        text = open_tokenizer(base).encode("\n".join(BATTERY), add_special_tokens=False)
        rows.append(text[: 2 * ROW_LENGTH])
    return rows
