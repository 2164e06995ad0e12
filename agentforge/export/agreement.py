"""How far two versions of a model agree: logits on the same tokens, and token ids of the same texts."""

from __future__ import annotations

import gc
import logging
import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agentforge.data.tokenizer import BATTERY as TOKENIZER_BATTERY
from agentforge.errors import CheckRefused
from agentforge.progress import watched
from agentforge.recipe.schema import Recipe

log = logging.getLogger(__name__)

# Texts that have broken some converter's tokenizer, beside those that the tokenizer's own check uses.
BATTERY = (
    *TOKENIZER_BATTERY,
    "it's they'll we've I'D x'S 'tis O'Neill don't've",
    '{"name": "bash", "arguments": {"command": "ls -la | grep \\"x y\\" > /dev/null"}}',
    "Line one\r\nline two\r\n\r\n\tindented\t\ttwice   \n   trailing spaces   ",
    "3 33 333 3333 33333 3.14159 1,000,000 2026-11-20T20:17:02Z +49 (0)30 1234",
    "Ünïcödé straße İstanbul ǆ Ⅷ ＡＢＣ",
    "我想在北京吃烤鸭。今日は良い天気ですね。한국어 텍스트입니다.",
    "🚀 😶\u200d🌫️ 🇩🇪 ✅ 🦙🦙 \u200b zero\u200bwidth \ufeff bom",
    "$ docker ps -a --format '{{.Names}}' && echo \"done\" || exit 1; # ~/.bashrc %PATH% C:\\Users\\x",
    "''''''```````\"\"\"\"......!!!!!!?????? ------======= ~~ <<>> <tag attr='v'/> </s> <s> [INST]",
    "\u0001\u007f \u00a0nbsp\u2028sep\u3000wide \U0001d54f\U0001f9ff\U000e0041",
    "a",
    " ",
    "\n",
    " leading space and a very long tail" + "l" * 60,
)
ROW_LENGTH = 256
SWEEP_BYTES = 2**30  # all ids of vocabularies up to 16,384


@dataclass(frozen=True)
class Agreement:
    """Two models on the same tokens.

    Attributes:
        tokens: positions compared.
        kl: mean KL(reference || other), nats a token.
        top1: share of positions with the same likeliest next token.
        max_difference: greatest absolute difference of two logits.
        usual_difference: the same at the position that nine tenths of all positions are below.
        spread: standard deviation of the reference's logits at a position, averaged; differences are judged by it.
    """

    tokens: int
    kl: float
    top1: float
    max_difference: float
    usual_difference: float
    spread: float

    def as_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return asdict(self)


def agreement(reference: Iterable[np.ndarray], other: Iterable[np.ndarray]) -> Agreement:
    """Compare logits row by row; each array is (T, V) and two of a pair have the same shape.

    Raises:
        CheckRefused: shapes differ, or a logit is not finite.
    """
    tokens, kl, same, spread = 0, 0.0, 0, 0.0
    greatest: list[float] = []
    for left, right in zip(reference, other, strict=True):
        if left.shape != right.shape:
            raise CheckRefused(
                f"the models' logits have shapes {left.shape} and {right.shape}: their vocabularies differ"
            )
        if not (np.isfinite(left).all() and np.isfinite(right).all()):
            raise CheckRefused("a model gives NaN or infinite logits, so it can be neither compared nor used")
        # In float64: KL adds up differences of 1e-6 over a vocabulary of 150,000.
        p, q = _log_softmax(left), _log_softmax(right)
        tokens += len(left)
        kl += float((np.exp(p) * (p - q)).sum())
        same += int((left.argmax(-1) == right.argmax(-1)).sum())
        spread += float(left.std(-1, dtype=np.float64).sum())
        greatest += np.abs(left - right).max(-1).tolist()
    if not tokens:
        raise CheckRefused("there are no tokens to compare the models on")
    # Rounding can push the KL of two equal models just below zero.
    usual = float(np.quantile(greatest, 0.9))
    return Agreement(tokens, max(kl / tokens, 0.0), same / tokens, max(greatest), usual, spread / tokens)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def comparison_rows(recipe: Recipe, tokenizer: Any, tokens: int = 512) -> list[list[int]]:
    """Return token ids to compare models on: held-out rows of the recipe's prepared data, else the battery above."""
    rows: list[list[int]] = []
    for file in sorted(recipe.artifact("data").glob("eval-*.arrow")):
        from datasets import Dataset

        for row in Dataset.from_file(str(file)):
            rows.append(list(row["input_ids"][:ROW_LENGTH]))
            if sum(map(len, rows)) >= tokens:
                return rows
    # A small eval split still says more about the model's own texts than the battery does.
    if sum(map(len, rows)) >= tokens // 2:
        return rows
    battery: list[int] = tokenizer.encode("\n".join(BATTERY), add_special_tokens=False)
    return [battery[start : start + ROW_LENGTH] for start in range(0, min(len(battery), tokens), ROW_LENGTH)]


def sweep_rows(vocabulary: int, seed: int = 0) -> list[list[int]]:
    """Return rows in which every token id occurs once, in random order.

    Held-out text has a small part of a vocabulary, so a wrong row of the embedding goes unseen. Where the logits of all
    ids would take more than `SWEEP_BYTES`, a random part of the ids is taken.
    """
    count = min(vocabulary, SWEEP_BYTES // (4 * vocabulary))
    ids = [int(token) for token in np.random.default_rng(seed).permutation(vocabulary)[:count]]
    return [ids[start : start + ROW_LENGTH] for start in range(0, len(ids), ROW_LENGTH)]


def model_logits(model: Any, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Return float32 logits (T, V) of each row."""
    found = []
    with torch.inference_mode():
        # One row at a time: without padding there is no mask that could be applied differently.
        for row in watched(rows, "comparing logits", "rows", len(rows)):
            ids = torch.tensor([row], device=model.device)
            found.append(model(input_ids=ids, use_cache=False).logits[0].float().cpu().numpy())
    return found


@dataclass(frozen=True)
class ComparisonPlace:
    """Where and in what precision a comparison runs."""

    device: str
    dtype: torch.dtype

    @property
    def exact(self) -> bool:
        """Float32, in which bounds on logits mean something."""
        return self.dtype == torch.float32


def comparison_place(parameters: int) -> ComparisonPlace:
    """Return the device that holds a model in float32, else in bfloat16.

    Raises:
        CheckRefused: neither fits anywhere here.
    """
    memory = {"cpu": os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _page_cache()}
    if torch.cuda.is_available():
        memory = {"cuda": torch.cuda.mem_get_info()[0], **memory}
    for dtype in (torch.float32, torch.bfloat16):
        # float32 on any device comes before bfloat16 on the GPU: the CPU is slow, but bounds on logits mean something
        # there.
        for device, free in memory.items():
            if parameters * dtype.itemsize * 1.1 < free:  # a tenth for adapter, activations and logits
                if dtype != torch.float32:
                    log.warning(
                        "float32 does not fit into memory; comparing the models in bfloat16, by KL instead of logits"
                    )
                return ComparisonPlace(device, dtype)
    most = max(memory.values()) / 1e9
    raise CheckRefused(
        f"checking the result needs {parameters * 2.2e-9:.0f} GB on one device, but the largest has {most:.0f} GB; "
        "use a larger machine"
    )


def _page_cache() -> int:
    """Bytes of memory that the kernel would give back: mapped weights count as free."""
    with open("/proc/meminfo", encoding="ascii") as file:
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in file}
    return max(0, sizes["MemAvailable"] - sizes["MemFree"])


def load_model(directory: Path, place: ComparisonPlace, trust_remote_code: bool = False) -> Any:
    """Load a causal language model for comparison.

    Raises:
        CheckRefused: as `open_model`.
    """
    from agentforge.models.open_model import open_model

    model: Any = open_model(directory, dtype=place.dtype, trust_remote_code=trust_remote_code)
    return model.to(place.device).eval()


def logits_of(load: Callable[[], Any], rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Load a model, take its logits and let it go, so that two models are never in memory at once."""
    model = load()
    found = model_logits(model, rows)
    del model
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return found


def tokenizer_texts(tokenizer: Any) -> list[str]:
    """The battery, and the tokenizer's own added tokens alone and between words.

    In NFC, because llama.cpp does not normalise: text with decomposed accents is read differently from what tokenizers
    with an NFC step (Qwen's) make of it, in every GGUF of such a model. docs/export.md says so.
    """
    added = sorted(str(token) for token in tokenizer.added_tokens_decoder.values())
    texts = [*BATTERY, *added, *(f"before{token}after {token}\n{token}" for token in added), "".join(added)]
    return [unicodedata.normalize("NFC", text) for text in texts]
