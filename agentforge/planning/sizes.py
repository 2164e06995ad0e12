"""The numbers that decide how large a decoder is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from agentforge.errors import UserError


@dataclass(frozen=True)
class Mixer:
    """The Mamba-2 mixer beside the attention of each layer (FalconH1 and its kin).

    Attributes:
        heads: each of ``inner / heads`` channels.
        inner: channels of all heads together.
        chunk: tokens that the scan takes at once.
    """

    heads: int
    inner: int
    state: int
    groups: int
    taps: int
    chunk: int

    @property
    def conv_size(self) -> int:
        """Channels of the convolution: x, B and C."""
        return self.inner + 2 * self.groups * self.state

    @property
    def in_size(self) -> int:
        """Outputs of `in_proj`: the gate, what the convolution reads, and a step size a head."""
        return self.inner + self.conv_size + self.heads


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder.

    Attributes:
        num_attention_heads: 0 in a model without attention.
        head_dim: of queries and values; their mean where they differ (DeepSeek's latent attention).
        attention_windows: one entry for each layer with attention: the tokens that a query sees, None for all.
        attention_bias: q, k and v projections have a bias.
        output_bias: and so has o (Llama's ``attention_bias``; Qwen2 has none there).
        mlp_bias: the three projections of the MLP have a bias.
        query_key_norm: an RMSNorm of ``head_dim`` on queries and on keys (Qwen3).
        mixer: None: there is none.
        gated_mlp: the MLP has a third matrix, its gate (nanochat's has none).
        norm_weights: RMSNorms have weights (nanochat's have none).
        config: config.json of an architecture without a table, as sorted JSON. Its parameters are counted on the meta
            device. None: the fields above say everything.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    tie_word_embeddings: bool
    attention_windows: tuple[int | None, ...]
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    query_key_norm: bool = False
    mixer: Mixer | None = None
    gated_mlp: bool = True
    norm_weights: bool = True
    config: str | None = None

    def scaled(self, share: Fraction) -> Shape:
        """Return the shape whose widths are a share of this one's: heads and their size, depth and state stay.

        Raises:
            UserError: nobody knows how to narrow this architecture.
        """
        if self.config is not None:
            raise UserError(
                f"a {self.model_type} has no nested widths; leave out train.nested, or graft the base first"
            )
        mixer = self.mixer
        if mixer is not None:
            mixer = replace(mixer, heads=int(mixer.heads * share), inner=int(mixer.inner * share))
        return replace(
            self,
            hidden_size=int(self.hidden_size * share),
            intermediate_size=int(self.intermediate_size * share),
            num_attention_heads=int(self.num_attention_heads * share),
            num_key_value_heads=int(self.num_key_value_heads * share),
            mixer=mixer,
        )

    @property
    def query_size(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        return self.num_key_value_heads * self.head_dim

    def attended(self, length: int) -> int:
        """Return the tokens that a query sees in a row of ``length``, summed over the layers with attention."""
        return sum(length if window is None else min(window, length) for window in self.attention_windows)
