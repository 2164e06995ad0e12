"""The keys that Adamba adds to a recipe: for training, for surgery and for evaluating losses."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agentforge.recipe.section import Section


class Distill(Section):
    """The model also learns the next-token distribution of a frozen teacher."""

    teacher: str = Field(description="directory or Hub id; must have the model's vocabulary")
    weight: float = Field(1.0, gt=0, description="weight of the divergence; the labels' loss has weight 1")
    temperature: float = Field(1.0, gt=0)


class Nested(Section):
    """Train narrow models inside the full one: in each step the narrowest, and some in between."""

    widths: list[str] = Field(["1/2", "1/4"], min_length=1, description="widths, as shares of the full width")
    random: int = Field(1, ge=0, description="how many widths in between each step draws")
    alpha: float = Field(0.5, ge=0, le=1, description="weight of the full width's prediction; the labels have the rest")
    temperature: float = Field(1.0, gt=0)
    mix_and_match: bool = Field(False, description="also draw models whose layers have different widths")
    router: float | None = Field(
        None,
        ge=0,
        description="fit a router on the eval rows that may lose this much, in nats per token; null: no router",
    )


class ExitTraining(Section):
    """Early exits: train the head to read hidden states between the layers (LayerSkip)."""

    layers: list[int] = Field(min_length=1, description="put exits after these numbers of layers")
    scale: float = Field(
        0.2, ge=0, description="weight of the exits relative to the last layer; 0: train only the gates"
    )
    rotate: bool = Field(False, description="train one exit per step in turn; saves time if there are many exits")
    layer_dropout: float = Field(0.0, ge=0, lt=1, description="probability that a row skips the last layer")
    gates: bool = Field(True, description="train a gate at each exit to predict whether it agrees with full depth")
    agreement: float | None = Field(
        0.95,
        gt=0,
        lt=1,
        description="calibrate thresholds on the eval rows: wanted agreement of tokens that leave; null: do not",
    )


class AdambaTrain(Section):
    """What `train` may ask for besides the labels' loss."""

    distill: Distill | None = None
    nested: Nested | None = None
    exits: ExitTraining | None = None
    expanded: Literal["expanded_only", "graded"] | None = Field(
        None, description="for an expanded model: train only the new entries, or the old ones too at a lower rate"
    )
    old_learning_rate_share: float = Field(
        0.1, gt=0, lt=1, description="for graded: the old entries' rate, as a share of the new ones'"
    )


class GraftedMamba(Section):
    """The mixers that `graft` adds to every layer."""

    heads: int | None = Field(
        None, ge=1, description="heads of a mixer; none: enough to make it as wide as the residual stream"
    )
    d_head: int | None = Field(None, ge=1, description="channels per head; none: as many as an attention head has")
    d_state: int = Field(128, ge=1, description="size of the state per channel")
    d_conv: int = Field(4, ge=2, le=4, description="taps of the convolution")
    chunk: int = Field(128, ge=1, description="how many positions the scan processes at once")


class Sizes(Section):
    """Sizes of an Adamba, named as in its config. Sizes that you leave out stay; the size of a head always stays."""

    hidden_size: int | None = Field(None, ge=1)
    num_attention_heads: int | None = Field(None, ge=1)
    num_key_value_heads: int | None = Field(None, ge=1)
    intermediate_size: int | None = Field(None, ge=1)
    mamba_n_heads: int | None = Field(None, ge=1)
    num_hidden_layers: int | None = Field(None, ge=1)


class AdambaSurgery(Section):
    """Options of the operations."""

    mamba: GraftedMamba | None = Field(None, description="graft: sizes of the mixers")
    width: str | None = Field(None, description="expand, slice: factor for all widths, such as 5/4 or 1/2")
    shape: Sizes | None = Field(None, description="expand, slice: sizes to set after `width` is applied")
    layers: int | None = Field(
        None, ge=1, description="truncate: how many layers to keep; drop_attention: how many to drop, cheapest first"
    )
    indices: list[int] | None = Field(
        None, description="drop_attention: which layers, counted from 0, instead of `layers`"
    )
    rows: int | None = Field(
        None, ge=1, description="order, drop_attention: how many prepared rows to measure on; none: 64"
    )


class AdambaLoss(Section):
    """What `evaluate.loss` measures besides the whole model."""

    widths: list[str] = Field(["1"], min_length=1, description="shares of an Adamba's width; other models have only 1")
    exits: bool = Field(False, description="also measure at each early exit, if the model has any")
