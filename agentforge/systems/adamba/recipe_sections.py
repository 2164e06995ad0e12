"""The keys that Adamba adds to a recipe: `train.nested` and its like, what surgery takes, where losses are read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agentforge.recipe.section import Section


class Distill(Section):
    """The model also learns the next-token distribution of a frozen teacher."""

    teacher: str = Field(description="directory or Hub id; its vocabulary is the model's")
    weight: float = Field(1.0, gt=0, description="of the divergence beside the labels' 1")
    temperature: float = Field(1.0, gt=0)


class Nested(Section):
    """Narrow models inside the full one are trained with it: in each step the narrowest, and some between."""

    widths: list[str] = Field(["1/2", "1/4"], min_length=1, description="shares of the full width")
    random: int = Field(1, ge=0, description="widths between that a step draws")
    alpha: float = Field(0.5, ge=0, le=1, description="share of the full width's prediction; the labels have the rest")
    temperature: float = Field(1.0, gt=0)
    mix_and_match: bool = Field(False, description="draw also models whose layers have widths of their own")
    router: float | None = Field(
        None, ge=0, description="fit a router on the eval rows that loses so much at most, in nats a token; null: none"
    )


class ExitTraining(Section):
    """Early exits: the head is trained to read hidden states between the layers (LayerSkip)."""

    layers: list[int] = Field(min_length=1, description="exits after so many layers")
    scale: float = Field(0.2, ge=0, description="what the exits count beside the last layer; 0: only gates are trained")
    rotate: bool = Field(False, description="one exit a step in turn, which saves heads where there are many")
    layer_dropout: float = Field(0.0, ge=0, lt=1, description="probability that a row skips the last layer")
    gates: bool = Field(True, description="each exit learns when it agrees with full depth")
    agreement: float | None = Field(
        0.95,
        gt=0,
        lt=1,
        description="thresholds are calibrated to it on the eval rows, of tokens that leave; null: not",
    )


class AdambaTrain(Section):
    """What `train` may ask for beside the labels' loss."""

    distill: Distill | None = None
    nested: Nested | None = None
    exits: ExitTraining | None = None
    expanded: Literal["expanded_only", "graded"] | None = Field(
        None, description="of an expanded model: train only the new entries, or the old ones at a lower rate"
    )
    old_learning_rate_share: float = Field(0.1, gt=0, lt=1, description="graded: of the new entries' rate")


class GraftedMamba(Section):
    """The mixers that graft adds to every layer."""

    heads: int | None = Field(None, ge=1, description="none: as many as make the mixer as wide as the residual stream")
    d_head: int | None = Field(None, ge=1, description="channels of a head; none: those of an attention head")
    d_state: int = Field(128, ge=1, description="size of the state per channel")
    d_conv: int = Field(4, ge=2, le=4, description="taps of the convolution")
    chunk: int = Field(128, ge=1, description="positions that the scan treats at once")


class Sizes(Section):
    """Sizes of an Adamba by their names in its config; what is not given stays. The size of a head always does."""

    hidden_size: int | None = Field(None, ge=1)
    num_attention_heads: int | None = Field(None, ge=1)
    num_key_value_heads: int | None = Field(None, ge=1)
    intermediate_size: int | None = Field(None, ge=1)
    mamba_n_heads: int | None = Field(None, ge=1)
    num_hidden_layers: int | None = Field(None, ge=1)


class AdambaSurgery(Section):
    """What the operations take."""

    mamba: GraftedMamba | None = Field(None, description="graft: sizes of the mixers")
    width: str | None = Field(None, description="expand, slice: all widths times this, such as 5/4 or 1/2")
    shape: Sizes | None = Field(None, description="expand, slice: sizes, after width")
    layers: int | None = Field(
        None, ge=1, description="truncate: how many stay; drop_attention: how many, the cheapest"
    )
    indices: list[int] | None = Field(None, description="drop_attention: which layers instead, counted from 0")
    rows: int | None = Field(None, ge=1, description="order, drop_attention: prepared rows measured on; none: 64")


class AdambaLoss(Section):
    """What `evaluate.loss` reads beside the whole model."""

    widths: list[str] = Field(["1"], min_length=1, description="shares of an Adamba's width; others have only 1")
    exits: bool = Field(False, description="also at each early exit, if the model has any")
