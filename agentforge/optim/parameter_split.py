"""Which parameters of a model Muon trains, and which AdamW: for any model of transformers, without a list of models.

Muon is for matrices that turn hidden vectors into hidden vectors, where a step of equal length in all directions makes
sense. So it gets the 2-D weights of linear modules, except for

    embeddings and head           their rows are tokens; most get no gradient in a step (Jordan's rule, and Moonlight's)
    routers, gates, small heads   a few numbers a token; their rows are decisions, not directions
    fused matrices                in which q, k and v lie in a way that nobody has proved (`fused_matrices`)
    what the recipe names         `adamw: ["*.patterns"]`

Everything that is no matrix (norms, biases, convolutions, stacked experts) or does not belong to a linear module
(positions, states, learned tokens) goes to AdamW too.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from agentforge.errors import UserError
from agentforge.optim.fused_matrices import Blocks, blocks_of
from agentforge.optim.muon_rules import decides
from agentforge.recipe.optimizers import OPTIMIZERS

log = logging.getLogger(__name__)

# Rates of state-space layers: the model uses their exponentials, and decay would pull those towards 1.
UNDECAYED = ("A_log", "D", "dt_bias")

FUSED = "fused matrices of unknown layout"


@dataclass
class Split:
    """What goes where.

    Attributes:
        hidden: matrices for Muon.
        decayed, undecayed: for AdamW, with weight decay and without.
        blocks: how fused ones among the hidden are taken apart.
        reasons: why parameters are left to AdamW, and their names.
    """

    hidden: list[Tensor] = field(default_factory=list)
    decayed: list[Tensor] = field(default_factory=list)
    undecayed: list[Tensor] = field(default_factory=list)
    blocks: dict[Tensor, Blocks] = field(default_factory=dict)
    reasons: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def groups(self) -> list[dict[str, Any]]:
        """Return the optimiser's groups; empty ones are left out."""
        groups: list[dict[str, Any]] = [
            {"params": self.hidden, "use_muon": True},
            {"params": self.decayed},
            {"params": self.undecayed, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def log(self) -> None:
        """Say which parameters go where; `plan` splits them too, and says it in its own way."""
        matrices, others = (
            sum(parameter.numel() for parameter in parameters)
            for parameters in (self.hidden, self.decayed + self.undecayed)
        )
        reasons = ", ".join(f"{reason} ({len(names)})" for reason, names in self.reasons.items())
        log.info(
            "mugrokfast: %d matrices of %d numbers by Muon; %d numbers by AdamW: %s",
            len(self.hidden),
            matrices,
            others,
            reasons or "none",
        )
        if FUSED in self.reasons:
            names = sorted({_leaf(name) for name in self.reasons[FUSED]})
            log.warning("mugrokfast leaves %s to AdamW: how their parts lie in them is not known", ", ".join(names))


def split_parameters(model: nn.Module, adamw: Sequence[str] = ()) -> Split:
    """Return which trained parameters of a model go to Muon.

    Args:
        model: frozen parameters are left out.
        adamw: patterns of parameter names that are kept from Muon.

    Raises:
        UserError: there are LoRA adapters, no matrix is left for Muon, or a pattern fits nothing.
    """
    split, ends, fitting = Split(), _ends(model), set()
    for name, module, parameter in _trained(model):
        if "lora_" in name:
            raise UserError(
                f"mugrokfast does not train LoRA: {OPTIMIZERS['mugrokfast'].lora_refusal}; leave out train.optimizer"
            )
        fits = {pattern for pattern in adamw if fnmatchcase(name, pattern)}
        fitting |= fits
        reason = "named in the recipe" if fits else _why_not_muon(model, ends, name, module, parameter)
        if reason is None:
            split.hidden.append(parameter)
            blocks = blocks_of(getattr(model, "config", None), _leaf(name), parameter)
            if blocks is not None and blocks.sizes:
                split.blocks[parameter] = blocks
            continue
        split.reasons[reason].append(name)
        decays = parameter.ndim > 1 and name.rpartition(".")[2] not in UNDECAYED
        (split.decayed if decays else split.undecayed).append(parameter)
    if unused := sorted(set(adamw) - fitting):
        raise UserError(f"train.optimizer.options.adamw: '{unused[0]}' fits no trained parameter")
    if not split.hidden:
        raise UserError("mugrokfast finds no hidden matrix to train; leave out train.optimizer")
    return split


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Yield each trained parameter once, with the module that holds it."""
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, modules[name.rpartition(".")[0]], parameter


def _ends(model: nn.Module) -> set[int]:
    """Return the identities of embeddings and heads."""
    found = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for ask in ("get_input_embeddings", "get_output_embeddings"):
        end = getattr(model, ask)() if hasattr(model, ask) else None
        if isinstance(weight := getattr(end, "weight", None), Tensor):
            found.add(id(weight))
    return found


def _why_not_muon(model: nn.Module, ends: set[int], name: str, module: nn.Module, parameter: Tensor) -> str | None:
    config = getattr(model, "config", None)
    if id(parameter) in ends:
        return "embeddings and head"
    if parameter.ndim != 2 or not isinstance(module, nn.Linear | Conv1D):
        return "no matrix of a linear module"
    # A head that the model does not give as its output embeddings: a row for each token, and more rows than columns
    if parameter.shape[0] == getattr(config, "vocab_size", None) and parameter.shape[0] > parameter.shape[1]:
        return "embeddings and head"
    if decides(name, *parameter.shape):
        return "routers, gates and small heads"
    return FUSED if blocks_of(config, _leaf(name), parameter) is None else None


def _leaf(name: str) -> str:
    """Return the name of the module whose weight this is."""
    return name.split(".")[-2] if "." in name else ""
