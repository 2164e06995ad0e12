"""Which kinds of models keep rows apart that are run together, by the probe that training asks.

    python -m benchmarks.row_isolation

Each type with its class's default config, in small; without the cache of earlier answers.
"""

from __future__ import annotations

import os
import tempfile
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()

from transformers import AutoConfig
from transformers.utils import logging

from agentforge.models.row_isolation import WAYS, isolation_of

TYPES = (
    "llama qwen2 qwen3 qwen3_moe smollm3 olmo2 phi3 granite mixtral deepseek_v3 mistral gemma2 gemma3_text gpt2 "
    "gpt_neox opt bloom falcon mpt gpt_oss afmoe mamba mamba2 falcon_mamba falcon_h1 bamba jamba zamba2 "
    "nemotron_h qwen3_next kimi_linear minimax olmo_hybrid recurrent_gemma rwkv zaya"
)


def main() -> None:
    """Print the table: the largest difference of a logit where it is more than rounding, in units of their spread."""
    logging.set_verbosity_error()
    print("| `model_type` | " + " | ".join(WAYS.values()) + " | s |")
    print("|---|" + "---|" * len(WAYS) + "--:|")
    for kind in TYPES.split():
        begun = time.perf_counter()
        found = isolation_of(AutoConfig.for_model(kind))
        seconds = time.perf_counter() - begun
        cells = [
            "apart" if found.allows(way) else "-" if found.reason else f"{found.differences[way]:.1g}" for way in WAYS
        ]
        print(f"| {kind} | " + " | ".join(cells) + f" | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
