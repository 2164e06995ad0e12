"""SFT with LoRA at 8B shapes, and pre-training of all weights: our trainers beside TRL's and transformers'.

Weights are random and made on the device; ids are random too. The lengths of documents are log-normal, with a median of
450 tokens, cut at the row's length: most of a padded row is padding. A token is one of a document, padding is none.
"""

from __future__ import annotations

import functools
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    FalconH1Config,
    FalconH1ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

from agentforge.models.build import add_lora
from agentforge.planning.flops import flops_per_token
from agentforge.planning.shapes import shape_of
from agentforge.recipe.schema import Model, Recipe
from agentforge.systems.adamba.modeling.configuration import AdambaConfig
from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM
from agentforge.trainers.arguments import build_arguments
from agentforge.trainers.batching import make_collator, training_rows
from agentforge.trainers.guarded_trainer import Guards
from agentforge.trainers.supervised.pretrain import PretrainTrainer
from agentforge.trainers.supervised.sft import SupervisedTrainer
from benchmarks.on_gpu.measuring import Contestant, Reading, device, made_on_the_device, start_of_peak, wait
from benchmarks.sft_step import VOCABULARY, tokenizer

WARM, STEPS = 3, 12
LORA = {
    "r": 16,
    "lora_alpha": 32,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
LLAMA_8B = {
    "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False,
}  # fmt: skip
LLAMA_1B = LLAMA_8B | {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "tie_word_embeddings": True,
}  # fmt: skip
LLAMA_TINY = LLAMA_8B | {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
# Half the layers of adamba's first phase: SmolLM2-1.7B with a mixer in each layer.
HYBRID = {
    "vocab_size": 49152, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 12,
    "num_attention_heads": 32, "num_key_value_heads": 32, "mamba_d_ssm": 4096, "mamba_n_heads": 64, "mamba_d_head": 64,
    "mamba_d_state": 128, "mamba_n_groups": 1, "mamba_chunk_size": 128, "tie_word_embeddings": True,
    "pad_token_id": None,
}  # fmt: skip
HYBRID_TINY = HYBRID | {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4, "mamba_d_ssm": 128, "mamba_n_heads": 4, "mamba_d_head": 32,
    "mamba_d_state": 16, "mamba_chunk_size": 16,
}  # fmt: skip


class StepTimes(TrainerCallback):
    """Seconds of each step; the training ends when its time is up.

    Args:
        until: a moment of `time.monotonic`.
    """

    def __init__(self, until: float) -> None:
        self.seconds: list[float] = []
        self._until = until

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        wait()
        self._begun = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        wait()
        self.seconds.append(time.perf_counter() - self._begun)
        if time.monotonic() > self._until and len(self.seconds) >= WARM + 2:
            control.should_training_stop = True
        return control


class Counting:
    """A collator that also counts the tokens of each batch, without padding."""

    def __init__(self, collator: Callable[[Any], Any]) -> None:
        self.collator = collator
        self.tokens: list[int] = []

    def __call__(self, examples: list[dict[str, Any]]) -> Any:
        self.tokens.append(sum(len(example["input_ids"]) for example in examples))
        return self.collator(examples)


def trained(trainer: Trainer, until: float, flops: float) -> Reading:
    """Train, and return the tokens and seconds of all steps but the first."""
    times = StepTimes(until)
    trainer.add_callback(times)
    trainer.remove_callback(PrinterCallback)
    counting = Counting(trainer.data_collator)
    trainer.data_collator = counting
    start_of_peak()
    trainer.train()
    steps = len(times.seconds) - WARM
    if steps < 1:
        raise ValueError(f"only {len(times.seconds)} steps were made: there are too few rows")
    tokens = sum(counting.tokens[WARM : WARM + steps])
    checkpointing = getattr(trainer.model, "is_gradient_checkpointing", False)
    note = "gradient checkpointing" if checkpointing else ""
    return Reading(sum(times.seconds[WARM:]) / steps, tokens / steps, flops, note)


def documents(rows: int, length: int) -> Dataset:
    """Return documents of which two fifths of the tokens are trained, in stretches."""
    rng = random.Random(0)
    ids, masks = [], []
    for _ in range(rows):
        size = int(min(length, max(8, length * 0.22 * rng.lognormvariate(0, 0.9))))
        ids.append([rng.randrange(2, VOCABULARY) for _ in range(size)])
        masks.append([int(place % 50 >= 30) for place in range(size)])
        masks[-1][-1] = 1
    return Dataset.from_dict({"input_ids": ids, "assistant_masks": masks})


def full_rows(rows: int, length: int) -> Dataset:
    """Return rows without a border in them."""
    ids = torch.randint(2, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(0)).tolist()
    return Dataset.from_dict({"input_ids": ids, "labels": ids})


Make = Callable[[torch.dtype], Any]
"""Makes a model on the device."""


class Setting:
    """What the contestants of a part share: the model's shape, the data, the arguments.

    Args:
        method: ``sft`` or ``pretrain``.
        make: the model.
        config: of the recipe's model.
        length: tokens of a row.
        batch: rows of a step.
    """

    def __init__(self, method: str, make: Make, config: dict[str, Any], length: int, batch: int) -> None:
        self.method, self.make, self.length = method, make, length
        self.directory = Path(tempfile.mkdtemp())
        self.common: dict[str, Any] = {
            "per_device_train_batch_size": batch, "max_steps": WARM + STEPS, "bf16": True, "save_strategy": "no",
            "report_to": [], "disable_tqdm": True, "logging_steps": 10,
        }  # fmt: skip
        self.plain = self.common | {"use_cpu": device().type == "cpu", "remove_unused_columns": False}
        self.recipe = Recipe(
            name="gpu", hardware="1xh200" if torch.cuda.is_available() else "cpu", model=Model(config=config),
            data={"max_length": length},
            train={"method": method, "args": self.common} | ({"lora": LORA} if method == "sft" else {}),
        )  # fmt: skip
        # Packed, some five documents are a row.
        self.documents = documents((WARM + STEPS + 2) * batch * 5, length)

    @functools.cached_property
    def flops(self) -> float:
        """Of a token in training, as `agentforge plan` has them."""
        return flops_per_token(self.recipe, shape_of(self.recipe), recompute=False, length=self.length)

    def rows(self, packing: bool) -> Dataset:
        cache = self.directory / f"rows-{packing}"
        masked = self.method == "sft"
        return training_rows(self.documents, max_length=self.length, packing=packing, masked=masked, cache=cache)

    def ours(self, until: float, *, packing: bool = True, rows: Dataset | None = None, **args: Any) -> Reading:
        """Train as `agentforge train` does: its arguments, its collator, its trainer."""
        recipe = self.recipe.model_copy(deep=True)
        recipe.train.args.update(args)
        config_class, trainer_class = {
            "sft": (SFTConfig, SupervisedTrainer),
            "pretrain": (TrainingArguments, PretrainTrainer),
        }[self.method]
        arguments = build_arguments(recipe, config_class, self.directory / "ours", evaluates=False).parent
        if isinstance(arguments, SFTConfig):
            arguments.dataset_kwargs = {"skip_prepare_dataset": True}
        model = self.make(torch.bfloat16 if self.method == "sft" else torch.float32)
        collator = make_collator(model, 0, packing)
        trainer = trainer_class(
            model=add_lora(model, LORA, seed=0) if self.method == "sft" else model,
            args=arguments,
            data_collator=collator,
            train_dataset=self.rows(packing) if rows is None else rows,
            processing_class=tokenizer(),
            guards=Guards(),
        )
        return trained(trainer, until, self.flops)

    def trl(self, until: float, **args: Any) -> Reading:
        trainer = SFTTrainer(
            self.make(torch.bfloat16),
            SFTConfig(str(self.directory / "trl"), max_length=self.length, **self.plain | args),
            train_dataset=self.documents,
            processing_class=tokenizer(),
            peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA),
        )
        return trained(trainer, until, self.flops)

    def trainer(
        self, until: float, rows: Dataset, collator: Any = None, make: Make | None = None, **args: Any
    ) -> Reading:
        """Train all weights with the plain Trainer."""
        arguments = TrainingArguments(str(self.directory / "plain"), **self.plain | args)
        model = (make or self.make)(torch.float32)
        return trained(Trainer(model, arguments, collator, rows), until, self.flops)


def llama(shape: dict[str, Any], dtype: torch.dtype) -> LlamaForCausalLM:
    with made_on_the_device():
        return LlamaForCausalLM._from_config(LlamaConfig(**shape), dtype=dtype)


def sft(tiny: bool) -> list[Contestant]:
    """LoRA at the shapes of Llama-3.1-8B, rows of 2,048: packed against padded, ours against TRL's SFTTrainer."""
    shape, length, batch = (LLAMA_TINY, 64, 2) if tiny else (LLAMA_8B, 2048, 2)
    config = {"model_type": "llama", **shape}
    setting = Setting("sft", functools.partial(llama, shape), config, length, batch)
    off = {"gradient_checkpointing": False}
    packed, padded = "TRL's SFTTrainer, packed", "TRL's SFTTrainer, padded"
    found = [
        Contestant("agentforge, packed", functools.partial(setting.ours, **off), packed),
        Contestant(packed, functools.partial(setting.trl, packing=True, **off)),
        Contestant("agentforge, padded", functools.partial(setting.ours, packing=False, **off), padded),
        Contestant(padded, functools.partial(setting.trl, **off)),
        Contestant("TRL's SFTTrainer, its defaults", setting.trl, padded),
    ]
    if torch.cuda.is_available():  # Liger changes transformers' classes, so it comes last
        run = functools.partial(setting.trl, packing=True, use_liger_kernel=True, **off)
        found.append(Contestant("TRL's SFTTrainer, packed, Liger kernels", run, packed))
    return found


def pretrain(tiny: bool) -> list[Contestant]:
    """All weights of a Llama of 1.2B (the shapes of Llama-3.2-1B), rows of 2,048 tokens."""
    shape, length, batch = (LLAMA_TINY, 64, 2) if tiny else (LLAMA_1B, 2048, 4)
    config = {"model_type": "llama", **shape}
    setting = Setting("pretrain", functools.partial(llama, shape), config, length, batch)
    off = {"gradient_checkpointing": False}
    joined = full_rows((WARM + STEPS + 2) * batch, length)
    same, together = "Trainer, the same rows", "Trainer, documents not kept apart"

    def same_rows(until: float) -> Reading:
        return setting.trainer(until, setting.rows(True), make_collator(llama(LLAMA_TINY, torch.float32), 0, True))

    found = [
        Contestant("agentforge, documents kept apart", functools.partial(setting.ours, **off), same),
        Contestant(same, same_rows),
        Contestant(together, functools.partial(setting.trainer, rows=joined)),
        Contestant(
            "agentforge, one document in a row",
            functools.partial(setting.ours, packing=False, rows=joined, **off),
            together,
        ),
    ]
    if torch.cuda.is_available() and not tiny:
        run = functools.partial(setting.ours, packing=False, rows=joined, torch_compile=True, **off)
        found.append(Contestant("agentforge, one document in a row, compiled", run, together))
    return found


def hybrid(tiny: bool) -> list[Contestant]:
    """All weights of adamba's hybrid of 1.2B; without mamba_ssm its scan is ours in torch, and FalconH1's its own."""
    shape, length, batch = (HYBRID_TINY, 64, 2) if tiny else (HYBRID, 2048, 4)

    def adamba(dtype: torch.dtype) -> Any:
        with made_on_the_device():
            return AdambaForCausalLM._from_config(AdambaConfig(**shape), dtype=dtype)

    def falcon(dtype: torch.dtype) -> Any:
        with made_on_the_device():
            chunk = {"mamba_chunk_size": min(32, shape["mamba_chunk_size"])}
            return FalconH1ForCausalLM._from_config(FalconH1Config(**shape | chunk), dtype=dtype)

    setting = Setting("pretrain", adamba, {"model_type": "adamba", **shape}, length, batch)
    rows = full_rows((WARM + STEPS + 2) * batch, length)
    peer = "FalconH1 of transformers with Trainer, 1 row, checkpointing"
    run = functools.partial(setting.ours, packing=False, rows=rows)
    return [
        Contestant("adamba, our scan in torch", functools.partial(run, gradient_checkpointing=False), peer),
        Contestant(
            "adamba, 1 row, checkpointing",
            functools.partial(run, gradient_checkpointing=True, per_device_train_batch_size=1),
            peer,
        ),
        Contestant(
            peer,
            functools.partial(
                setting.trainer, rows=rows, make=falcon, gradient_checkpointing=True, per_device_train_batch_size=1
            ),
        ),
    ]
