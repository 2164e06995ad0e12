"""The config of an AGIFORMER, and how many parameters it asks for."""

from dataclasses import field
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PretrainedConfig

from agentforge.systems.agiformer.checkpoint_types import BYTES, OWN_TYPE, PRESETS, VOCABULARY


@strict
class AgiformerConfig(PretrainedConfig):
    """A causal hierarchy over bytes: patches below a global stack, and a decoder that goes from byte to byte.

    Attributes:
        preset: ``small``, ``medium`` or ``large``: sizes of the specification for what is 0; None: medium.
        hidden_size: channels of the global stack.
        intermediate_size: of its MLPs; 0: 8/3 of the channels, rounded up to 16.
        num_hidden_layers, num_attention_heads: of the global stack.
        patch_size: bytes of a patch, P.
        window_size: patches that a patch attends to, itself included.
        linear_attention: the global layers have a linear-attention branch beside the window, which sees everything.
        thinking_steps: how often the shared block refines each patch's latent, K; 0: not at all.
        thinking_halting: ``none`` trains the last step alone; ``expected`` and ``pondernet`` train every step, weighted
            by the halting distribution.
        halting_weight, halting_prior: weight and prior of that (see `losses.halting`).
        exit_threshold: in eval mode a patch stops thinking at this cumulative halting probability; None: never.
        byte_decoder: ``transformer`` reads across the borders of patches; ``gru``, the specification's, starts anew in
            each.
        num_byte_layers, byte_window: of the transformer: layers, and bytes that a byte attends to.
        byte_intermediate_size: of its MLPs; 0: as of the global ones.
        ngram_sizes: lengths of the n-grams that end at the byte and have embeddings of their own; empty: none.
        ngram_buckets: rows of each table.
        ngram_dropout: probability that a whole n-gram is forgotten in training.
        counted_sizes: lengths of the contexts after which the training text's bytes are counted (see `counted`); empty:
            none.
        counted_folds: pieces in which it is counted; a row is predicted by the others.
        counted: how many contexts, continuations and rows were counted; written by counting.
    """

    model_type = OWN_TYPE
    keys_to_ignore_at_inference = ["past_key_values", "thinking_steps"]  # noqa: RUF012  as in transformers

    preset: str | None = None
    vocab_size: int = VOCABULARY
    hidden_size: int = 0
    intermediate_size: int = 0
    num_hidden_layers: int = 0
    num_attention_heads: int = 0
    patch_size: int = 4
    window_size: int = 128
    linear_attention: bool = True
    thinking_steps: int = 3
    thinking_halting: Literal["none", "expected", "pondernet"] = "none"
    halting_weight: float = 0.01
    halting_prior: float = 0.3
    exit_threshold: float | None = None
    byte_decoder: Literal["transformer", "gru"] = "transformer"
    num_byte_layers: int = 1
    byte_window: int = 32
    byte_intermediate_size: int = 0
    ngram_sizes: list[int] = field(default_factory=list)
    ngram_buckets: int = 32768
    ngram_dropout: float = 0.5
    counted_sizes: list[int] = field(default_factory=list)
    counted_folds: int = 8
    counted: list[int] = field(default_factory=lambda: [0, 0, 0])
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    max_position_embeddings: int = 1_000_000
    use_cache: bool = True
    tie_word_embeddings: bool = False
    pad_token_id: int | None = BYTES
    bos_token_id: int | None = BYTES + 1
    eos_token_id: int | list[int] | None = BYTES + 2

    def __post_init__(self, **kwargs: Any) -> None:
        for name, value in PRESETS[self.preset or "medium"].items():
            if not getattr(self, name):
                setattr(self, name, value)
        if not self.intermediate_size:
            self.intermediate_size = -(-self.hidden_size * 8 // 3 // 16) * 16
        if not self.byte_intermediate_size:
            self.byte_intermediate_size = self.intermediate_size
        self.ngram_sizes = sorted(set(self.ngram_sizes))
        self.counted_sizes = sorted(set(self.counted_sizes))
        super().__post_init__(**kwargs)

    @property
    def head_dim(self) -> int:
        """Channels of an attention head."""
        return self.hidden_size // self.num_attention_heads
