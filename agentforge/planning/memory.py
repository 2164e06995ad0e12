"""Memory of one training process, from shapes alone: so that a run that cannot fit is refused before it costs anything.

All figures are bytes per device. Formulas count what autograd keeps for the backward pass of a decoder layer as
transformers 5 writes it (RMSNorm in fp32, SDPA or flash attention, SwiGLU), after the manner of Korthikanti et al.
(arXiv 2205.05198); tests compare them with the tensors that a real model saves.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentforge.errors import UserError
from agentforge.planning import constants
from agentforge.planning.optimizer_states import state_bytes, step_bytes
from agentforge.planning.parameters import adapted_modules, count_parameters, inventory_of, trained_parameters
from agentforge.planning.shapes import shape_of
from agentforge.planning.sizes import Shape
from agentforge.planning.step_work import StepWork, step_work
from agentforge.recipe.hardware import load_hardware
from agentforge.recipe.launch import DIVIDED, SHARDED, Strategy, launched_strategy
from agentforge.recipe.schema import Recipe

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
NF4_BYTES = 0.5 + 0.127 / 8  # 4 bits a weight and its doubly quantised scale (Dettmers et al., arXiv 2305.14314)
USABLE = constants.USABLE.range.mid
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
        optimizer: its states, and the average of `train.ema`.
        step: what the optimiser needs beside them while it steps.
        activations: kept for the backward pass if nothing is recomputed.
        checkpoints: kept if every layer is recomputed: the layers' inputs.
        layer: what one layer keeps while it is recomputed.
        logits: of one micro-batch and their gradient.
        head_gradient: of the output head, which is there before anything else is freed.
        overhead: of the runtime.
        capacity: what the device has.
        gradients_stay: from one micro-batch to the next; else they are freed before the next forward pass.
        gradient_checkpointing: the recipe's choice; None if it leaves it to the plan.
        measured: what `plan --calibrate` found instead of the sum, without the runtime; None: nothing was measured.
    """

    weights: float
    adapters: float
    gradients: float
    optimizer: float
    step: float
    activations: float
    checkpoints: float
    layer: float
    logits: float
    head_gradient: float
    overhead: float
    capacity: float
    gradients_stay: bool
    gradient_checkpointing: bool | None
    measured: float | None = None

    def total(self, gradient_checkpointing: bool | None = None) -> float:
        """Return the peak, with or without recomputation; None: as the recipe says, or as the plan would choose."""
        if gradient_checkpointing is None:
            gradient_checkpointing = self.recomputes
        if self.measured is not None and gradient_checkpointing == self.recomputes:
            return self.measured + self.overhead
        return self._assumed(gradient_checkpointing)

    def _assumed(self, gradient_checkpointing: bool) -> float:
        """Return the peak by the formulas.

        As the backward pass goes from the head to the first layer, activations are freed and gradients come. So the
        peak is at its beginning or at its end, unless gradients are there all the time.
        """
        states = self.weights + self.adapters + self.optimizer + self.overhead
        begins, ends = self.activations + self.logits, self.step
        if gradient_checkpointing:
            begins, ends = self.checkpoints + max(self.logits, self.layer), max(self.layer, self.step)
        if self.gradients_stay:
            return states + self.gradients + max(begins, ends)
        return states + max(begins + self.head_gradient, self.gradients + ends)

    def fits(self, gradient_checkpointing: bool | None = None) -> bool:
        """Tell whether the peak is within 92 % of the device."""
        return self.total(gradient_checkpointing) <= USABLE * self.capacity

    @property
    def recomputes(self) -> bool:
        """Whether activations are recomputed: the recipe's word, else only if the run does not fit without."""
        if self.gradient_checkpointing is not None:
            return self.gradient_checkpointing
        return self._assumed(gradient_checkpointing=False) > USABLE * self.capacity


def estimate_memory(recipe: Recipe, strategy: Strategy | None = None) -> Memory:
    """Return the memory of one training process of a recipe.

    Args:
        recipe: what is trained, on `recipe.hardware`.
        strategy: what the devices share. DDP repeats weights, gradients and the optimiser's states on each; ZeRO-2
            divides the latter two, FSDP 2 and ZeRO-3 all three. None: what `accelerate launch` asked this process for.

    Raises:
        UserError: the base's shape or the hardware is not known.
    """
    hardware, shape, args = load_hardware(recipe.hardware), shape_of(recipe), recipe.train.args
    strategy = strategy or launched_strategy() or "ddp"
    shards = hardware.devices if strategy in SHARDED else 1
    states = hardware.devices if strategy in DIVIDED else 1
    trained = trained_parameters(recipe, shape)
    gradients = 4 * trained
    if hardware.devices > 1 and strategy not in DIVIDED:
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
        gradients=gradients / states,
        optimizer=state_bytes(recipe, shape) / states,
        step=step_bytes(recipe, shape),
        activations=sum(layer_activations(each, recipe) for each in shapes) * tokens * shape.num_hidden_layers
        + width * work.activations * tokens,
        checkpoints=inputs + width * work.checkpoints * tokens,
        layer=layer,
        logits=logits_bytes(recipe, shape, tokens) + new_token_bytes(recipe, shape),
        head_gradient=min(gradients, 4 * shape.vocab_size * shape.hidden_size) / shards,
        overhead=constants.CUDA_OVERHEAD.range.mid * 2**30 if hardware.gpus else 0.5 * 2**30,
        capacity=hardware.memory_gib * 2**30,
        gradients_stay=hardware.devices > 1 or args.get("gradient_accumulation_steps", 1) > 1,
        gradient_checkpointing=args.get("gradient_checkpointing"),
    )


def new_token_bytes(recipe: Recipe, shape: Shape) -> float:
    """Return the bytes of what PEFT makes to train rows of `data.add_tokens`: a copy of the head, and its gradient."""
    if recipe.train.lora is None or not recipe.data.add_tokens:
        return 0.0
    return 2.0 * DTYPE_BYTES[recipe.model.dtype] * shape.vocab_size * shape.hidden_size


def teacher_bytes(recipe: Recipe, work: StepWork) -> float:
    """Return the bytes of the frozen teacher's weights."""
    return (
        0.0 if work.teacher is None else float(DTYPE_BYTES[recipe.model.dtype] * count_parameters(work.teacher).total)
    )


def needs_gradient_checkpointing(recipe: Recipe, strategy: Strategy | None = None) -> bool:
    """Tell whether activations must be recomputed; True also where the shape of the base is not known."""
    try:
        return not estimate_memory(recipe, strategy).fits(gradient_checkpointing=False)
    except UserError:
        return True


def weight_bytes(recipe: Recipe, shape: Shape) -> float:
    """Return the bytes of the base's weights: fp32 if they are trained (trainers hold them so), else as `model` says.

    nf4 holds the linear modules of the layers in 4 bits. Everything else is held in fp32, to which peft's
    `prepare_model_for_kbit_training` casts it: embeddings, head and norms, and experts, since bitsandbytes replaces
    linear modules only and transformers 5 keeps experts in one tensor.
    """
    counts = count_parameters(shape)
    if recipe.train.lora is None:
        return 4.0 * counts.total
    width = DTYPE_BYTES[recipe.model.dtype]
    if recipe.model.quantize is None:
        return float(width * counts.total)
    return NF4_BYTES * counts.linear + 4.0 * (counts.total - counts.linear)


def activation_bytes(recipe: Recipe) -> int:
    """Return the bytes of an activation: 2 under bf16 or fp16, or if the weights themselves are 16 bits wide."""
    bf16 = recipe.train.args.get("bf16")
    if bf16 is None:  # left to the hardware
        bf16 = load_hardware(recipe.hardware).gpus > 0
    if bf16 or recipe.train.args.get("fp16", False):
        return 2
    return 4 if recipe.train.lora is None else DTYPE_BYTES[recipe.model.dtype]


def layer_activations(shape: Shape, recipe: Recipe) -> float:
    """Return the bytes that one decoder layer keeps for a token, on average over the layers.

    Each LoRA module keeps its input (with dropout a copy and a mask of one byte) and its r-wide middle.
    """
    width = activation_bytes(recipe)
    if shape.config is None:
        kept = _known_activations(shape, width) + _scan_without_kernels(shape, recipe)
    else:
        kept = _measured_activations(shape, width)
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


def _scan_without_kernels(shape: Shape, recipe: Recipe) -> float:
    """On a CPU the scan is written in torch, and autograd keeps its intermediate results, in fp32.

    The factors are those of transformers' FalconH1: a fit to 11 tiny models, which it meets to the byte.
    """
    mixer = shape.mixer
    if mixer is None or load_hardware(recipe.hardware).gpus:
        return 0.0
    inside = 3 * mixer.heads * mixer.chunk + 5 * mixer.heads * mixer.state
    return 4.0 * (inside + 5 * mixer.inner + 2 * mixer.inner * mixer.state / mixer.chunk)


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
    """Return the bytes of a micro-batch's logits, all in fp32: they themselves, log-softmax and gradient.

    In mixed precision the head's 16 bits are there too.
    SFT and some systems' objectives hold at most a block of them, and as much again for the gradient.
    """
    sixteen = activation_bytes(recipe) == 2
    all_logits = (2.0 * sixteen + 3 * 4.0) * tokens * shape.vocab_size
    work = step_work(recipe, shape)
    if work.block_bytes is not None:
        return min(all_logits, 2.0 * work.block_bytes)
    in_blocks = recipe.train.method == "sft" or work.in_blocks
    return min(all_logits, 2.0 * MAX_LOGITS_BYTES) if in_blocks else all_logits
