"""The config of a Cognate, and how many parameters a model of it has."""

# No `from __future__ import annotations` here: `strict` checks values against the annotations, and lets every value
# pass that is annotated with a string.
import os
from pathlib import Path
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from agentforge.errors import UserError
from agentforge.models.usage import write_usage
from agentforge.systems.cognate.checkpoint_types import OWN_TYPE, check_config


@strict
class CognateConfig(PreTrainedConfig):
    """Layers that are run once (the prelude), and a core of shared layers that is run several times.

    Attributes:
        num_prelude_layers: layers before the loop.
        initializer_range: standard deviation of fresh weights; None: one over the root of `hidden_size`.
        num_core_layers: layers inside it; the same weights in every iteration.
        sliding_window: a token attends to itself and the ``sliding_window - 1`` tokens before it.
        qk_norm: queries and keys are normalised, without weights.
        memory_heads, memory_head_dim: the memory of a layer is a matrix of this width in each head.
        memory_conv_kernel: tokens that the memory's short convolutions see.
        memory_momentum: Titans' momentum of the surprise (arXiv 2501.00663).
        memory_layers: layers with a memory, counted through prelude and core; None: all, []: none.
        persistent_tokens: learned tokens that every query sees, whatever the window.
        gate_rank: rank of the gate between attention and memory.
        recursion: ``trm`` keeps a thought z and an answer y: ``z = core(z + y + x)`` `micro_steps` times, then
            ``y = core(y + z)`` (arXiv 2510.04871). ``plain`` is its control: ``h = core(h + x)``.
        max_recursions: K, iterations of the loop.
        detach_between_recursions: no gradient flows from an iteration to the one before.
        no_grad_recursions: first iterations that get no gradient at all (TRM's are all but the last).
        halting: how the halting probabilities are trained (`losses.halting`); ``none``: there is no halting head.
        halting_weight: weight of what halting costs: ACT's ponder cost, PonderNet's divergence.
        halting_prior: rate of PonderNet's geometric prior.
        entropy_weight: weight of the entropy bonus of ``expected``.
        correctness_weight: weight of TRM's guess whether a step's likeliest token is right.
        step_loss_share: share of positions on which the losses of the steps before the last are computed.
        halting_practice: share of training steps in which tokens stop at a drawn threshold, as they do in use.
        gate_weight, gate_floor: the memory's share of a layer's output is kept above the floor, with this weight.
        exit_threshold: when not training, a token stops thinking once its *cumulative* halting probability reaches
            this, so higher means thinking longer; None: every token takes all K iterations.

    Raises:
        UserError: values that do not go together.
    """

    model_type = OWN_TYPE
    keys_to_ignore_at_inference = [  # noqa: RUF012
        "past_key_values", "hidden_states", "halting_steps", "halt_probabilities", "step_states"
    ]  # fmt: skip
    attribute_map = {"num_key_value_heads": "num_attention_heads"}  # noqa: RUF012

    vocab_size: int = 32768
    hidden_size: int = 320
    intermediate_size: int = 1280
    num_prelude_layers: int = 6
    num_core_layers: int = 2
    num_attention_heads: int = 5
    head_dim: int = 64
    sliding_window: int = 512
    max_position_embeddings: int = 2048
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    initializer_range: float | int | None = None
    tie_word_embeddings: bool = True
    qk_norm: bool = True
    attention_dropout: float | int = 0.0
    memory_heads: int = 2
    memory_head_dim: int = 64
    memory_conv_kernel: int = 4
    memory_momentum: bool = False
    memory_layers: list[int] | None = None
    persistent_tokens: int = 8
    gate_rank: int = 32
    recursion: Literal["plain", "trm"] = "trm"
    max_recursions: int = 3
    micro_steps: int = 2
    detach_between_recursions: bool = False
    no_grad_recursions: int = 0
    halting: Literal["none", "act", "pondernet", "expected"] = "expected"
    halting_weight: float | int = 0.01
    halting_prior: float | int = 0.3
    entropy_weight: float | int = 0.01
    correctness_weight: float | int = 0.0
    step_loss_share: float | int = 1.0
    halting_practice: float | int = 0.0
    gate_weight: float | int = 1e-3
    gate_floor: float | int = 0.1
    exit_threshold: float | int | None = None
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.initializer_range is None:
            # The usual 0.02 is made for a width of 2,500. At 96 it kept a fifth of the signal in each projection, and
            # after 120 steps on bytes the loss was 2.25 where this gave 2.09.
            self.initializer_range = self.hidden_size**-0.5
        super().__post_init__(**kwargs)
        check_config({name: getattr(self, name) for name in type(self).__dataclass_fields__})
        if self.memory_layers is not None:
            self.memory_layers = sorted(set(self.memory_layers))
        if wrong := [layer for layer in self.memory_layers or [] if layer not in range(self.num_hidden_layers)]:
            raise UserError(
                f"memory_layers: there is no layer {wrong[0]}; prelude and core are 0 to {self.num_hidden_layers - 1}"
            )

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write config.json, and beside it a README: transformers alone does not open such a model."""
        super().save_pretrained(save_directory, *args, **kwargs)
        write_usage(Path(save_directory), self.to_dict())

    @property
    def num_hidden_layers(self) -> int:
        """Layers that have weights of their own."""
        return self.num_prelude_layers + self.num_core_layers

    @property
    def core_calls(self) -> int:
        """How often an iteration runs the core."""
        return self.micro_steps + 1 if self.recursion == "trm" else 1

    @property
    def layer_calls(self) -> int:
        """How often a token that takes all iterations runs a layer; each run has a place of its own in the cache."""
        return self.num_prelude_layers + self.max_recursions * self.core_calls * self.num_core_layers

    @property
    def halts(self) -> bool:
        """Whether there is a halting head: with a single iteration there would be nothing to decide."""
        return self.halting != "none" and self.max_recursions > 1

    def has_memory(self, layer: int) -> bool:
        """Tell whether a layer, counted through prelude and core, has a memory."""
        return self.memory_layers is None or layer in self.memory_layers


def parameter_count(config: CognateConfig) -> int:
    """Return the number of parameters of `CognateForCausalLM`; a tied head counts once."""
    d, heads = config.hidden_size, config.num_attention_heads * config.head_dim
    attention_and_mlp = 4 * d * heads + 3 * d * config.intermediate_size + 2 * d  # and two norms
    width = config.memory_heads * config.memory_head_dim
    memory = 4 * d * width + 3 * width * config.memory_conv_kernel + 3 * config.memory_heads * (d + 1)
    gate = 2 * d * config.gate_rank + config.gate_rank * d + d + 2 * d  # and the norms of what it weighs
    memories = sum(map(config.has_memory, range(config.num_hidden_layers)))
    states = 2 if config.recursion == "trm" else 1
    return (
        config.vocab_size * d * (1 if config.tie_word_embeddings else 2)
        + config.num_hidden_layers * attention_and_mlp
        + memories * (memory + gate)
        + (config.persistent_tokens + states) * d
        + (d + 1 if config.halts else 0)
        + d  # the last norm
    )
