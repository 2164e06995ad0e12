"""The config of an Adamba: a FalconH1 config, what surgery must remember, and the switches of a nanochat base."""

import os
from pathlib import Path
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import FalconH1Config

from agentforge.errors import UserError
from agentforge.models.usage import write_usage
from agentforge.systems.adamba.checkpoint_types import OWN_TYPE, PLAIN_CLASS, PLAIN_TYPE, SWITCHES


@strict
class AdambaConfig(FalconH1Config):
    """A FalconH1 config with a few fields more. With FalconH1's way of all switches it is saved as `falcon_h1`.

    Attributes:
        head_dim: of attention; None is the width divided by the heads.
        base_hidden_size: channels that RMSNorm's compensation counts from (see `shape.resized`).
        base_rms_norm_eps: epsilon at that width.
        base_multipliers: multipliers at that width, by name.
        exit_layers: after how many layers a token may leave, rising, each below the depth.
        dropped_attention: indices of layers whose attention is not run; their `o_proj` is zero in the checkpoint, so
            that plain FalconH1 computes the same.
        norm_weights: RMSNorms have weights.
        qk_norm: queries and keys are normalised, without weights, after the rotation.
        embedding_norm: embeddings are normalised, without weights, before the first layer.
        logit_softcap: logits are `c * tanh(logits / c)`.
        mlp: `gated` is `down(up(x) * act(gate(x)))`, `relu2` is `down(relu(up(x)) ** 2)`.
        rotary_flipped: queries and keys turn the other way.

    Raises:
        UserError: `mamba_rms_norm`, or layers that the model does not have.
    """

    model_type = OWN_TYPE

    head_dim: int | None = None
    base_hidden_size: int | None = None
    base_rms_norm_eps: float | None = None
    base_multipliers: dict[str, Any] | None = None
    exit_layers: list[int] | None = None
    dropped_attention: list[int] | None = None
    norm_weights: bool = True
    qk_norm: bool = False
    embedding_norm: bool = False
    logit_softcap: float | None = None
    mlp: Literal["gated", "relu2"] = "gated"
    rotary_flipped: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        # FalconH1 derives the head size from the width. Here it is fixed, because heads keep their size when the width
        # changes. The base's values are remembered so that resizing never accumulates rounding (`shape.resized`).
        self.head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        self.base_hidden_size = self.base_hidden_size or self.hidden_size
        self.base_rms_norm_eps = self.base_rms_norm_eps or self.rms_norm_eps
        self.exit_layers = sorted(set(self.exit_layers or []))
        self.dropped_attention = sorted(set(self.dropped_attention or []))
        if self.mamba_rms_norm:
            raise UserError(
                "mamba_rms_norm: its norm couples all Mamba heads, so no width could be cut out of the model or grown "
                "around it; use a base that has it off"
            )
        _check_layers("exit_layers", self.exit_layers, range(1, self.num_hidden_layers))
        _check_layers("dropped_attention", self.dropped_attention, range(self.num_hidden_layers))

    @property
    def switches(self) -> list[str]:
        """The fields that plain FalconH1 does not compute."""
        return [name for name, plain in SWITCHES.items() if getattr(self, name) != plain]

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read a config.json; that of a plain FalconH1 is an Adamba's too."""
        # transformers would warn that the file's type is not this class's
        fields, rest = super().get_config_dict(*args, **kwargs)
        if fields.get("model_type") == PLAIN_TYPE:
            fields["model_type"] = cls.model_type
        return fields, rest

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as they are written: a plain FalconH1's, with more keys, unless a switch is on."""
        fields = super().to_dict()
        # Without switches the model computes what a FalconH1 computes, so it is stored as one: transformers and
        # llama.cpp open it as it is. Our other fields are extra keys to them.
        if self.switches:
            return fields
        for name in SWITCHES:
            fields.pop(name, None)
        fields["model_type"] = PLAIN_TYPE
        if fields.get("architectures"):
            fields["architectures"] = [PLAIN_CLASS]
        return fields

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write config.json; where a switch is on, also a README: transformers alone does not open such a model."""
        super().save_pretrained(save_directory, *args, **kwargs)
        write_usage(Path(save_directory), self.to_dict())


def _check_layers(name: str, layers: list[int], allowed: range) -> None:
    if wrong := [layer for layer in layers if layer not in allowed]:
        raise UserError(
            f"{name}: {', '.join(map(str, wrong))} is not among {allowed.start} to {allowed.stop - 1}, the layers that "
            "can be named here"
        )
