"""Bytes that an optimiser keeps, beside the weights and their gradients."""

from __future__ import annotations

from fnmatch import fnmatchcase

from agentforge.optim.muon_rules import FUSED_NAME, STACK, decides
from agentforge.planning.inventory import LINEAR
from agentforge.planning.parameters import inventory_of, trained_parameters
from agentforge.planning.sizes import Shape
from agentforge.recipe.optimizers import MuGrokfastOptions, filled_in
from agentforge.recipe.schema import Recipe
from agentforge.recipe.tables import fields_of

# Numbers that an optimiser keeps for each trained parameter; Adam and its kin keep two, Adafactor rows and columns.
OPTIMIZER_STATES = {"ademamix": 3, "lion": 1, "adagrad": 1, "rmsprop": 1, "sgd": 0, "adafactor": 0.03}
ADAM_STATES = 2
FP32 = 4.0
STACKS = 4  # of which orthogonalising holds so many: itself, a product or two, the result


def state_bytes(recipe: Recipe, shape: Shape) -> float:
    """Return the bytes of the optimiser's states, and of the average that `train.ema` keeps.

    mugrokfast keeps one number for each entry of a hidden matrix (its momentum), AdamW's two for everything else, and
    one more for all with Grokfast's filter. An optimiser of a system counts as AdamW.
    """
    trained = trained_parameters(recipe, shape)
    average = 0.0 if recipe.train.ema is None else FP32 * trained
    chosen = recipe.train.optimizer
    if chosen is None:
        return average + trained * optimizer_bytes(recipe)
    if chosen.name != "mugrokfast":
        return average + trained * FP32 * ADAM_STATES
    options = MuGrokfastOptions.model_validate(filled_in(chosen.options))
    slow = trained if options.grokfast_lambda else 0
    return average + FP32 * (ADAM_STATES * trained - muon_parameters(recipe, shape, options.adamw) + slow)


def step_bytes(recipe: Recipe, shape: Shape) -> float:
    """Return the bytes that mugrokfast needs beside them while it steps; the others change the weights in place.

    With the filter, a copy of all gradients; of the hidden matrices Nesterov's momentum and the update; and the stack
    of matrices that is made orthogonal at a time, with what its polynomials hold.
    """
    chosen = recipe.train.optimizer
    if chosen is None or chosen.name != "mugrokfast":
        return 0.0
    options = MuGrokfastOptions.model_validate(filled_in(chosen.options))
    filtered = trained_parameters(recipe, shape) if options.grokfast_lambda else 0
    hidden = muon_parameters(recipe, shape, options.adamw)
    return FP32 * (filtered + (1 + options.nesterov) * hidden + STACKS * min(hidden, STACK))


def optimizer_bytes(recipe: Recipe) -> float:
    """Return the bytes of state that `train.args.optim` keeps for each trained parameter."""
    name = str(recipe.train.args.get("optim", fields_of("TrainingArguments")["optim"]["default"]))
    states = next((number for part, number in OPTIMIZER_STATES.items() if part in name), ADAM_STATES)
    return states * (1 if "8bit" in name else 0.5 if "4bit" in name else FP32)


def muon_parameters(recipe: Recipe, shape: Shape, adamw: list[str]) -> int:
    """Return how many trained parameters Muon moves: those of hidden matrices.

    Args:
        adamw: patterns of names that are kept from it.
    """
    if shape.config is not None:
        from agentforge.planning.meta import measured_muon

        return measured_muon(shape.config, tuple(recipe.train.trainable), tuple(adamw))
    inventory = inventory_of(shape)
    sizes = {f"{projection.name}.weight": projection for projection in inventory.projections}
    found = 0
    for parameter in inventory.parameters:
        if parameter.role != LINEAR or not _trained(parameter.name, recipe):
            continue
        module = sizes[parameter.name]
        kept = any(fnmatchcase(parameter.name, pattern) for pattern in adamw)
        fused = FUSED_NAME.search(module.name.rpartition(".")[2])
        if not (kept or fused or decides(module.name, module.inputs, module.outputs)):
            found += parameter.size
    return found


def _trained(name: str, recipe: Recipe) -> bool:
    patterns = recipe.train.trainable
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
