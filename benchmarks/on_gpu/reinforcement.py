"""A step of GRPO: episodes of one turn, played and trained on, in our trainer and in TRL's.

The model has the shape of Qwen2.5-0.5B without its large vocabulary, and random weights: completions are as long as
they may be, so that all write equally much. A token is one that the model wrote. What writes is transformers, or vLLM
in the same process, asleep while weights are trained; that its engine starts does not count.
"""

from __future__ import annotations

import functools
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, PrinterCallback, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from agentforge.data import chat_template
from agentforge.data.tokenizer import train_tokenizer
from agentforge.recipe.schema import Recipe
from agentforge.trainers.callbacks.limits import LimitsCallback
from agentforge.trainers.guarded_trainer import RunCounters
from agentforge.trainers.rl.method import RLMethod
from agentforge.trainers.rl.sampler import COLOCATED_SHARE
from benchmarks.on_gpu.measuring import Contestant, Missing, Reading, device, made_on_the_device
from benchmarks.on_gpu.supervised import StepTimes
from benchmarks.rollouts import SYSTEM, Errand

WARM, STEPS = 1, 8
LENGTH = 512
"""Tokens of an episode at most."""
SHAPE = {
    "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2,
}  # fmt: skip
TINY = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1,
}  # fmt: skip


def checkpoint(directory: Path, shape: dict[str, Any]) -> tuple[Path, PreTrainedTokenizerFast]:
    """Save a model with random weights and a tokenizer, and return where, and the tokenizer."""
    tokenizer = train_tokenizer([Path(transformers.__file__).read_text(encoding="utf-8"), SYSTEM], 2048)
    chat_template.install_template(tokenizer)
    with made_on_the_device():
        model = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=len(tokenizer),
                max_position_embeddings=4096,
                tie_word_embeddings=True,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=None,
                **shape,
            )
        )
    path = directory / "model"
    model.to(torch.bfloat16).save_pretrained(path)  # vLLM opens it in the dtype that it is saved in
    tokenizer.save_pretrained(path)
    return path, tokenizer


def common(tiny: bool) -> tuple[dict[str, Any], int]:
    """Return the arguments that both are given, and the most tokens of a completion."""
    episodes, written = (4, 8) if tiny else (64, 128)
    return {
        "per_device_train_batch_size": episodes, "num_generations": 4 if tiny else 8, "max_steps": WARM + STEPS,
        "learning_rate": 1e-6, "beta": 0.0, "gradient_checkpointing": False, "bf16": True,
    }, written  # fmt: skip


def measured(trainer: Any, until: float) -> Reading:
    """Train, and return the seconds of a step, its rollout included, and the tokens that were written in one."""
    times = StepTimes(until)
    trainer.add_callback(times)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    lengths = [
        line["completions/mean_length"] for line in trainer.state.log_history if "completions/mean_length" in line
    ]
    seconds = times.seconds[WARM:]
    written = sum(lengths[WARM:]) / len(lengths[WARM:]) * trainer.args.per_device_train_batch_size
    return Reading(sum(seconds) / len(seconds), written, note=f"{written:,.0f} tokens written a step")


def ours(
    directory: Path, tiny: bool, model: Callable[[], tuple[Path, Any]], until: float, *, engine: str = "transformers"
) -> Reading:
    args, written = common(tiny)
    recipe = Recipe(
        name="gpu",
        output_dir=str(directory),
        hardware="1xh200" if torch.cuda.is_available() else "cpu",
        model={"path": str(model()[0])},
        data={"max_length": LENGTH},
        environments={"errand": {"class": "benchmarks.rollouts:Errand", "single": True}},
        rollouts={"max_new_tokens": written, "batch_size": args["per_device_train_batch_size"], "engine": engine},
        train={"method": "grpo", "rewards": [{"function": "outcome"}], "args": args | {"save_strategy": "no"}},
    )
    method = RLMethod(recipe)
    try:
        limits = LimitsCallback(recipe.budget, 0.0, 0.0)
        return measured(method.make_trainer(directory / "ours", RunCounters(), limits, []), until)
    finally:
        method.close()


def trl(
    directory: Path, tiny: bool, model: Callable[[], tuple[Path, Any]], until: float, *, vllm: bool = False
) -> Reading:
    args, written = common(tiny)
    if vllm:  # as `rollouts.vllm` is in `ours`
        args |= {
            "use_vllm": True, "vllm_mode": "colocate", "vllm_enable_sleep_mode": True,
            "vllm_gpu_memory_utilization": COLOCATED_SHARE, "vllm_max_model_length": LENGTH,
        }  # fmt: skip
    path, tokenizer = model()
    config = GRPOConfig(
        str(directory / "trl"), use_cpu=device().type == "cpu", max_completion_length=written, temperature=1.0,
        top_k=0, report_to=[], disable_tqdm=True, logging_steps=1, save_strategy="no", **args,
    )  # fmt: skip
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "system", "content": SYSTEM}, {"role": "user", "content": Errand(True).reset(0, task)}],
            tokenize=False,
            add_generation_prompt=True,
        )
        for task in range(256)
    ]
    trainer = GRPOTrainer(
        Qwen2ForCausalLM.from_pretrained(path, dtype=torch.float32),
        lambda completions, **_: [float(len(text) % 7) for text in completions],
        config,
        Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
    )
    return measured(trainer, until)


def no_vllm(until: float) -> Reading:
    """Say in a line that vLLM cannot be measured here."""
    raise Missing("vLLM is not installed here: pip install agentforge-train[vllm]")


def grpo(tiny: bool) -> list[Contestant]:
    """A rollout of 64 completions of up to 128 tokens and an update on them."""
    directory = Path(tempfile.mkdtemp())
    model = functools.cache(lambda: checkpoint(directory, TINY if tiny else SHAPE))
    peer, engine = "TRL's GRPOTrainer", "TRL's GRPOTrainer, vLLM writes"
    run, theirs = functools.partial(ours, directory, tiny, model), functools.partial(trl, directory, tiny, model)
    found = [Contestant("agentforge", run, peer), Contestant(peer, theirs)]
    if importlib.util.find_spec("vllm") is None:
        return [*found, Contestant("agentforge, vLLM writes", no_vllm)]
    # Last, for an engine keeps some of the GPU's memory (the second gets as much as the first), and TRL says in the
    # environment from then on that this process is one of several.
    return [
        *found,
        Contestant("agentforge, vLLM writes", functools.partial(run, engine="vllm"), engine),
        Contestant(engine, functools.partial(theirs, vllm=True), peer),
    ]
