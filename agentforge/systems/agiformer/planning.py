"""What a training step of an AGIFORMER computes: most of its weights work once in P bytes, the thinking block K times.

The house counts each weight once for each token. That would be three times too much here.
"""

from __future__ import annotations

import json

from agentforge.planning.inventory import Parameter
from agentforge.planning.parameters import count_parameters, inventory_of
from agentforge.planning.sizes import Shape
from agentforge.planning.step_work import StepWork
from agentforge.recipe.schema import Recipe
from agentforge.systems.agiformer.checkpoint_types import OWN_TYPE

OF_PATCHES = ("model.layers.", "model.patch_proj.", "model.up_proj.", "model.latent_norm.")
CHUNK = 64
"""Patches of a chunk of the gated delta rule (`models.delta_rule`)."""
TRAINED = 3.0
"""A backward pass costs two forward passes."""


def step_work(recipe: Recipe, shape: Shape) -> StepWork | None:
    """Return by how much a step differs from one use of each weight for each byte; None: it is no AGIFORMER."""
    if shape.model_type != OWN_TYPE or shape.config is None:
        return None
    from agentforge.systems.agiformer.modeling.configuration import AgiformerConfig

    fields = json.loads(shape.config)
    config = AgiformerConfig(**{name: value for name, value in fields.items() if name != "model_type"})
    parameters = inventory_of(shape).parameters
    weights = sum(one.size * _uses(one, config.patch_size, config.thinking_steps) for one in parameters)
    length = recipe.row_length
    size, heads = config.hidden_size, config.num_attention_heads
    patches = -(-length // config.patch_size)
    attended = config.num_hidden_layers * min(config.window_size, patches) / config.patch_size
    if config.byte_decoder == "transformer":
        attended += config.num_byte_layers * min(config.byte_window, length)
    scan = 0.0
    if config.linear_attention:
        each = heads * scan_flops(size // heads, min(CHUNK, patches))
        scan = config.num_hidden_layers * each / config.patch_size
    forward = 2.0 * weights + 4.0 * size * attended + scan
    return StepWork(
        flops=TRAINED * (forward - 2.0 * count_parameters(shape).multiplied),
        undivided="an agiformer's loss is a module of its own around the model",
    )


def scan_flops(d: int, chunk: int) -> float:
    """Return the operations a position of the gated delta rule of one head with keys and values of size d.

    In a chunk of C positions K K' and Q K' are 2 C d each, the products of the triangular system's inverse with values
    and keys 4 C d, what is read of the chunk's own writes 2 C d, and the inverse 2/3 C^2; reading, correcting and
    writing the state are 8 d^2, and taking it from chunk to chunk 2 d^3 / C.
    """
    return 10 * chunk * d + 8 * d**2 + 2 * d**3 / chunk + 2 / 3 * chunk**2


def _uses(parameter: Parameter, patch: int, steps: int) -> float:
    if parameter.name.startswith("model.thinking."):
        return parameter.uses * steps / patch
    return parameter.uses / patch if parameter.name.startswith(OF_PATCHES) else parameter.uses
