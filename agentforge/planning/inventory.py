"""What a model consists of, parameter by parameter.

There are two ways to an inventory: from the table of a known architecture, here and without torch, and from the model
itself on the meta device (`meta`). A test proves that both say the same of every architecture that has a table.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentforge.planning.sizes import Shape


@dataclass(frozen=True)
class Parameter:
    """One tensor that is trained or frozen as a whole.

    Attributes:
        name: as in ``named_parameters()``; a tied head has the name of the embedding.
        size: numbers in it.
        role: ``linear`` is the weight of a linear module inside the layers, which nf4 quantises.
        uses: how often a token is multiplied with it. 0 for an embedding, which is looked up; 1 for a head tied to it.
        share: of its numbers that one token uses; below 1 only for experts, of which a router picks a few.
    """

    name: str
    size: int
    role: str
    uses: int = 1
    share: float = 1.0


@dataclass(frozen=True)
class Projection:
    """A matrix product of the decoder layers.

    Attributes:
        name: of its module, or of its parameter where a module holds several (experts).
        inputs, outputs: features.
        uses: how many of them a token passes; below 1 for one expert among many.
    """

    name: str
    inputs: int
    outputs: int
    uses: float = 1.0


@dataclass(frozen=True)
class Inventory:
    """All parameters of a model, each once, and the projections of its layers."""

    parameters: tuple[Parameter, ...]
    projections: tuple[Projection, ...]


EMBEDDING, HEAD, LINEAR, LAYER, OTHER = "embedding", "head", "linear", "layer", "other"


def linear_modules(shape: Shape) -> dict[str, tuple[int, int]]:
    """Return the linear modules of the layers of a known architecture: full name to (in, out) features."""
    h, f, q, kv = shape.hidden_size, shape.intermediate_size, shape.query_size, shape.key_value_size
    mlp = "mlp" if shape.mixer is None else "feed_forward"
    layer = {
        "self_attn.q_proj": (h, q),
        "self_attn.k_proj": (h, kv),
        "self_attn.v_proj": (h, kv),
        "self_attn.o_proj": (q, h),
        **({f"{mlp}.gate_proj": (h, f)} if shape.gated_mlp else {}),
        f"{mlp}.up_proj": (h, f),
        f"{mlp}.down_proj": (f, h),
    }
    if shape.mixer is not None:
        layer |= {"mamba.in_proj": (h, shape.mixer.in_size), "mamba.out_proj": (shape.mixer.inner, h)}
    return {
        f"model.layers.{number}.{name}": size
        for number in range(shape.num_hidden_layers)
        for name, size in layer.items()
    }


def table_inventory(shape: Shape) -> Inventory:
    """Return the inventory of a known architecture."""
    embedding = shape.vocab_size * shape.hidden_size
    found = [Parameter("model.embed_tokens.weight", embedding, EMBEDDING, uses=int(shape.tie_word_embeddings))]
    if not shape.tie_word_embeddings:
        found.append(Parameter("lm_head.weight", embedding, HEAD))
    projections = []
    for name, (inputs, outputs) in linear_modules(shape).items():
        projections.append(Projection(name, inputs, outputs))
        found.append(Parameter(f"{name}.weight", inputs * outputs, LINEAR))
        if _has_bias(shape, name):
            found.append(Parameter(f"{name}.bias", outputs, LAYER))
    small = _norms(shape) | mixer_vectors(shape)
    for layer in range(shape.num_hidden_layers):
        found += [Parameter(f"model.layers.{layer}.{name}", size, LAYER) for name, size in small.items()]
    if shape.norm_weights:
        last = "norm" if shape.mixer is None else "final_layernorm"
        found.append(Parameter(f"model.{last}.weight", shape.hidden_size, OTHER))
    return Inventory(tuple(found), tuple(projections))


def _has_bias(shape: Shape, module: str) -> bool:
    last = module.rsplit(".", 1)[-1]
    if last in ("q_proj", "k_proj", "v_proj"):
        return shape.attention_bias
    return shape.output_bias if last == "o_proj" else shape.mlp_bias and ".mlp." in module


def _norms(shape: Shape) -> dict[str, int]:
    before_mlp = "post_attention_layernorm" if shape.mixer is None else "pre_ff_layernorm"
    norms = dict.fromkeys(("input_layernorm.weight", f"{before_mlp}.weight"), shape.hidden_size)
    found = norms if shape.norm_weights else {}
    if shape.query_key_norm:
        found |= dict.fromkeys(("self_attn.q_norm.weight", "self_attn.k_norm.weight"), shape.head_dim)
    return found


def mixer_vectors(shape: Shape) -> dict[str, int]:
    """Return what a layer's mixer has beside its linear modules: name to number of parameters."""
    mixer = shape.mixer
    if mixer is None:
        return {}
    return {
        "mamba.conv1d.weight": mixer.conv_size * mixer.taps,
        "mamba.conv1d.bias": mixer.conv_size,
        "mamba.dt_bias": mixer.heads,
        "mamba.A_log": mixer.heads,
        "mamba.D": mixer.heads,
    }
