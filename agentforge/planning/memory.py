"""Memory of one training process, from shapes alone: so that a run that cannot fit is refused before it costs anything.

All figures are bytes per device. Formulas count what autograd keeps for the backward pass of a decoder layer as
transformers 5 writes it (RMSNorm in fp32, SDPA or flash attention, SwiGLU), after the manner of Korthikanti et al.
(arXiv 2205.05198); tests compare them with the tensors that a real model saves.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from agentforge.errors import UserError
from agentforge.planning.parameters import (
    adapted_modules,
    count_lora,
    count_matching,
    count_parameters,
    inventory_of,
)
from agentforge.planning.shapes import shape_of
from agentforge.planning.sizes import Shape
from agentforge.planning.step_work import StepWork, step_work
from agentforge.recipe.hardware import load_hardware
from agentforge.recipe.methods import METHODS
from agentforge.recipe.schema import Recipe
from agentforge.recipe.tables import fields_of

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
NF4_BYTES = 0.5 + 0.127 / 8  # 4 bits a weight and its doubly quantised scale (Dettmers et al., arXiv 2305.14314)
# Numbers that an optimiser keeps for each trained parameter; Adam and its kin keep two, Adafactor rows and columns.
OPTIMIZER_STATES = {"ademamix": 3, "lion": 1, "adagrad": 1, "rmsprop": 1, "sgd": 0, "adafactor": 0.03}
ADAM_STATES = 2
# CUDA context, cuBLAS workspaces and NCCL's buffers
CUDA_OVERHEAD = 1.5 * 2**30
# The rest is for the allocator's fragmentation and for what the formulas do not know.
USABLE = 0.92
# What an unknown architecture keeps for each number that goes in or out of a matrix product
BETWEEN_PROJECTIONS = 1.5
# Where TRL's head works in tiles instead of holding the logits (trainers.sft.MAX_LOGITS_BYTES)
MAX_LOGITS_BYTES = 2**30


@dataclass(frozen=True)
class Memory:
    """What one device holds at the peak of a step, in bytes.

    Attributes:
        weights: frozen or trained, as they are held for the forward pass.
        adapters: LoRA weights, fp32.
        gradients: of the trained parameters, with DDP's buckets.
        optimizer: its states.
        activations: kept for the backward pass if nothing is recomputed.
        checkpoints: kept if every layer is recomputed: the layers' inputs and one layer's activations.
        logits: of one micro-batch and their gradient.
        overhead: of the runtime.
        capacity: what the device has.
        gradient_checkpointing: the recipe's choice; None if it leaves it to the plan.
    """

    weights: float
    adapters: float
    gradients: float
    optimizer: float
    activations: float
    checkpoints: float
    logits: float
    overhead: float
    capacity: float
    gradient_checkpointing: bool | None

    def total(self, gradient_checkpointing: bool | None = None) -> float:
        """Return the sum, with or without recomputation; None: as the recipe says, or as the plan would choose."""
        if gradient_checkpointing is None:
            gradient_checkpointing = self.recomputes
        states = self.weights + self.adapters + self.gradients + self.optimizer + self.logits + self.overhead
        return states + (self.checkpoints if gradient_checkpointing else self.activations)

    def fits(self, gradient_checkpointing: bool | None = None) -> bool:
        """Tell whether the sum is within 92 % of the device."""
        return self.total(gradient_checkpointing) <= USABLE * self.capacity

    @property
    def recomputes(self) -> bool:
        """Whether activations are recomputed: the recipe's word, else only if the run does not fit without."""
        if self.gradient_checkpointing is not None:
            return self.gradient_checkpointing
        return not self.fits(gradient_checkpointing=False)


def estimate_memory(recipe: Recipe, *, sharded: bool | None = None) -> Memory:
    """Return the memory of one training process of a recipe.

    Args:
        recipe: what is trained, on `recipe.hardware`.
        sharded: weights, gradients and states are divided among the devices (FSDP, ZeRO-3) instead of repeated on each
            (DDP). None: as the launcher of this process says.

    Raises:
        UserError: the base's shape or the hardware is not known.
    """
    hardware, shape, args = load_hardware(recipe.hardware), shape_of(recipe), recipe.train.args
    if sharded is None:
        sharded = launched_sharded()
    shards = hardware.devices if sharded else 1
    trained = trained_parameters(recipe, shape)
    gradients = 4 * trained
    if hardware.devices > 1 and not sharded:
        gradients *= 2  # DDP reduces in buckets that are as large as the gradients
    tokens = args.get("per_device_train_batch_size", 8) * recipe.row_length
    width = activation_bytes(recipe)
    work = step_work(recipe, shape)
    shapes = [shape, *work.kept]  # all of a step is kept until its backward pass
    layer = layer_activations(shape, recipe) * tokens
    inputs = width * tokens * shape.num_hidden_layers * sum(each.hidden_size for each in shapes)
    return Memory(
        weights=weight_bytes(recipe, shape) / shards + teacher_bytes(recipe, work),
        adapters=4 * trained / shards if recipe.train.lora is not None else 0,
        gradients=gradients / shards,
        optimizer=trained * optimizer_bytes(recipe) / shards,
        activations=sum(layer_activations(each, recipe) for each in shapes) * tokens * shape.num_hidden_layers
        + width * work.activations * tokens,
        checkpoints=inputs + layer + width * work.checkpoints * tokens,
        logits=logits_bytes(recipe, shape, tokens),
        overhead=CUDA_OVERHEAD if hardware.gpus else 0.5 * 2**30,
        capacity=hardware.memory_gib * 2**30,
        gradient_checkpointing=args.get("gradient_checkpointing"),
    )


def teacher_bytes(recipe: Recipe, work: StepWork) -> float:
    """Return the bytes of the frozen teacher's weights."""
    return (
        0.0 if work.teacher is None else float(DTYPE_BYTES[recipe.model.dtype] * count_parameters(work.teacher).total)
    )


def can_be_sharded(recipe: Recipe, shape: Shape) -> bool:
    """Tell whether FSDP may divide the weights: not where parts of whole matrices are read, nor in RL."""
    return not METHODS[recipe.train.method].plays and step_work(recipe, shape).shardable


def needs_gradient_checkpointing(recipe: Recipe) -> bool:
    """Tell whether activations must be recomputed; True also where the shape of the base is not known."""
    try:
        return not estimate_memory(recipe).fits(gradient_checkpointing=False)
    except UserError:
        return True


def launched_sharded() -> bool:
    """Tell whether `accelerate launch` has asked this process for FSDP or ZeRO-3; ZeRO-2 repeats the weights."""
    wanted = {name: os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true" for name in ("FSDP", "DEEPSPEED")}
    return wanted["FSDP"] or (wanted["DEEPSPEED"] and os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3")


def trained_parameters(recipe: Recipe, shape: Shape) -> int:
    """Return how many parameters the optimiser moves; of an expanded model all, whose old entries it then puts back."""
    if recipe.train.lora is not None:
        return count_lora(shape, recipe.train.lora)
    if recipe.train.trainable:
        return count_matching(shape, recipe.train.trainable)
    return count_parameters(shape).total


def weight_bytes(recipe: Recipe, shape: Shape) -> float:
    """Return the bytes of the base's weights: fp32 if they are trained (trainers hold them so), else as `model` says.

    nf4 holds the linear modules of the layers in 4 bits. Everything else stays in `model.dtype`: embeddings, head and
    norms, and experts: bitsandbytes replaces linear modules only, and transformers 5 keeps experts in one tensor.
    """
    counts = count_parameters(shape)
    if recipe.train.lora is None:
        return 4.0 * counts.total
    width = DTYPE_BYTES[recipe.model.dtype]
    if recipe.model.quantize is None:
        return float(width * counts.total)
    return NF4_BYTES * counts.linear + width * (counts.total - counts.linear)


def optimizer_bytes(recipe: Recipe) -> float:
    """Return the bytes of optimiser state for each trained parameter."""
    name = str(recipe.train.args.get("optim", fields_of("TrainingArguments")["optim"]["default"]))
    states = next((number for part, number in OPTIMIZER_STATES.items() if part in name), ADAM_STATES)
    return states * (1 if "8bit" in name else 0.5 if "4bit" in name else 4)


def activation_bytes(recipe: Recipe) -> int:
    """Return the bytes of an activation: 2 under bf16 or fp16, or if the weights themselves are 16 bits wide."""
    mixed = recipe.train.args.get("bf16", load_hardware(recipe.hardware).gpus > 0) or recipe.train.args.get(
        "fp16", False
    )
    return 2 if mixed else 4 if recipe.train.lora is None else DTYPE_BYTES[recipe.model.dtype]


def layer_activations(shape: Shape, recipe: Recipe) -> float:
    """Return the bytes that one decoder layer keeps for a token, on average over the layers.

    Each LoRA module keeps its input (with dropout a copy and a mask of one byte) and its r-wide middle.
    """
    width = activation_bytes(recipe)
    kept = _known_activations(shape, width) if shape.config is None else _measured_activations(shape, width)
    if recipe.train.lora is not None:
        dropout = bool(recipe.train.lora.get("lora_dropout"))
        layers = {projection.name for projection in inventory_of(shape).projections}
        inside = [size for name, size in adapted_modules(shape, recipe.train.lora).items() if name in layers]
        extra = sum((width + 1) * rows * dropout + width * rank for rows, _, rank in inside)
        kept += extra / shape.num_hidden_layers
    return kept


def _known_activations(shape: Shape, width: int) -> float:
    """Norms keep their fp32 input and their output; attention q, k, v and its result; SwiGLU four of its tensors."""
    h, f, q, kv = shape.hidden_size, shape.intermediate_size, shape.query_size, shape.key_value_size
    kept: float = 2 * (4 + width) * h + width * (2 * q + 2 * kv) + 4 * width * f
    if shape.query_key_norm:
        kept += (4 + width) * (q + kv)
    if (mixer := shape.mixer) is not None:
        # With CUDA's kernels: what goes into and comes out of projections, convolution and scan
        kept += width * (mixer.in_size + 2 * mixer.conv_size + 2 * mixer.inner)
    return kept


def _measured_activations(shape: Shape, width: int) -> float:
    """An estimate for any architecture: each matrix product keeps what goes in, and what comes out is kept after it.

    Norms, rotations and activation functions between them keep about half as much again: a factor that was fitted to
    twelve tiny models on a CPU. It can be low (gpt2 with attention dropout: 0.44 of what autograd kept) as well as
    high (opt: 1.8); `tests/planning/test_meta.py` holds six architectures to 0.5 to 2. An expert counts for the tokens
    that it gets.
    """
    kept = sum((p.inputs + p.outputs) * p.uses for p in inventory_of(shape).projections)
    return BETWEEN_PROJECTIONS * width * kept / shape.num_hidden_layers


def logits_bytes(recipe: Recipe, shape: Shape, tokens: int) -> float:
    """Return the bytes of a micro-batch's logits: 16 bits or fp32, their fp32 copy, log-softmax and gradient.

    SFT and some systems' objectives hold at most a block of them, and as much again for the gradient.
    """
    all_logits = (activation_bytes(recipe) + 3 * 4.0) * tokens * shape.vocab_size
    work = step_work(recipe, shape)
    if work.block_bytes is not None:
        return min(all_logits, 2.0 * work.block_bytes)
    in_blocks = recipe.train.method == "sft" or work.in_blocks
    return min(all_logits, 2.0 * MAX_LOGITS_BYTES) if in_blocks else all_logits
