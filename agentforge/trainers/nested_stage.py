"""What a recipe asks for beside the labels' loss: checked before anything is made, then given to model and trainer."""

from __future__ import annotations

import logging
import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights

from agentforge.errors import CheckRefused, UserError, did_you_mean
from agentforge.models.adamba.exits import ExitGate, load_gates
from agentforge.models.adamba.shape import Shape, resized
from agentforge.models.adamba.submodels import parse_width
from agentforge.models.build import load_model
from agentforge.models.row_isolation import isolation_of
from agentforge.recipe.schema import Model, Recipe
from agentforge.trainers.arguments import Arguments
from agentforge.trainers.nested_objective import GATES, NestedObjective
from agentforge.trainers.old_entries import OldEntries
from agentforge.trainers.stage import OBJECTIVES, asks_for

log = logging.getLogger(__name__)

ADAMBA = ("falcon_h1", "adamba")
# The parents' features that act inside the loss or the model, where the objective does not pass.
UNSUPPORTED = ("label_smoothing_factor", "use_liger_kernel", "torch_compile", "neftune_noise_alpha")


class NestedPlan:
    """A recipe's wishes, none of which can be refused any more.

    Attributes:
        objective: the loss is another than the parent's.
    """

    def __init__(self, recipe: Recipe, arguments: Arguments) -> None:
        """Check them.

        Raises:
            UserError: a key does not go with the model, with another key or with how the run was launched.
        """
        self.recipe, self.train, self.args = recipe, recipe.train, arguments.parent
        self.objective = any(getattr(self.train, key) for key in OBJECTIVES)
        if recipe.train.lora is not None:
            raise UserError(f"train.{asks_for(self.train)[0]} trains the weights themselves; leave train.lora out")
        config = _config_of(recipe.model)
        self._check_model(config, arguments)
        self._check_launch()
        self._check_widths(config)
        self._check_exits(config)
        self._check_expansion(config)
        self._check_teacher(config)
        if self.train.trainable:
            with no_init_weights(), torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config, trust_remote_code=recipe.model.trust_remote_code)
            _matching(model, self.train.trainable)

    def _check_model(self, config: Any, arguments: Arguments) -> None:
        keys = [key for key in asks_for(self.train) if key != "trainable"]
        if keys and config.model_type not in ADAMBA:
            raise UserError(
                f"train.{keys[0]}: {self.recipe.model.path or 'model.config'} is a {config.model_type}; this needs an "
                "Adamba, which `agentforge surgery` makes of a base (graft)"
            )
        if arguments.packing and (refusal := isolation_of(config).refusal("packed")):
            raise UserError(f"train.args.packing: {config.model_type} cannot be packed: {refusal}; set it to false")
        if not self.objective:
            return
        for name in UNSUPPORTED:
            if getattr(self.args, name, None):
                raise UserError(f"train.args.{name} does not act on the loss of train.{keys[0]}; leave it out")
        if getattr(self.args, "loss_type", "nll") != "nll":
            raise UserError(f"train.args.loss_type: with train.{keys[0]} only nll is computed; leave it out")

    def _check_launch(self) -> None:
        keys = [key for key in asks_for(self.train) if key != "trainable"]
        launched = [
            name
            for name in ("FSDP", "DEEPSPEED")
            if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true"
            or getattr(self.args, name.lower(), None)
        ]
        if keys and launched:
            raise UserError(
                f"train.{keys[0]} reads parts of whole weights, {launched[0]} gives each process a shard of them; "
                "launch with DDP (torchrun, or accelerate without it)"
            )
        if keys and any(word in str(self.args.optim) for word in ("lomo", "layerwise")):
            raise UserError(f"train.args.optim {self.args.optim} updates weights before all widths have been trained")

    def _check_widths(self, config: Any) -> None:
        if self.train.nested is None:
            return
        shape = Shape.of(config)
        for given in self.train.nested.widths:
            width = parse_width(given)
            if width == 1:
                raise UserError("train.nested.widths: 1 is trained anyway; name narrower ones, such as 1/2")
            try:
                resized(config, shape.scaled(width))
            except UserError as error:
                raise UserError(f"train.nested.widths: {error}") from error

    def _check_exits(self, config: Any) -> None:
        if self.train.exits is None:
            return
        layers, depth = self.train.exits.layers, config.num_hidden_layers
        if layers != sorted(set(layers)) or layers[0] < 1 or layers[-1] >= depth:
            raise UserError(
                f"train.exits.layers {layers}: exits are rising numbers from 1 to {depth - 1}, for the model has "
                f"{depth} layers"
            )

    def _check_expansion(self, config: Any) -> None:
        if self.train.expanded is None:
            return
        before = getattr(config, "expanded_from", None)
        if not before:
            raise CheckRefused(
                f"train.expanded: {self.recipe.model.path or 'the model'} has not been expanded (its config has no "
                "expanded_from); run `agentforge surgery` with operation expand first, and train what it makes"
            )
        if not Shape(**before).fits_in(Shape.of(config)):
            raise CheckRefused(f"expanded_from {before} does not fit into {self.recipe.model.path}; expand it again")

    def _check_teacher(self, config: Any) -> None:
        if self.train.distill is None:
            return
        teacher = self.train.distill.teacher
        size = _config_of(Model(path=teacher)).vocab_size
        if size != config.vocab_size:
            raise UserError(
                f"train.distill.teacher: {teacher} has {size} tokens, the model {config.vocab_size}; a teacher speaks "
                "the model's own vocabulary, as the base it was grafted from does"
            )

    def inputs(self) -> dict[str, Path | str]:
        """Return what the result depends on beside base and data."""
        distill = self.train.distill
        if distill is None:
            return {}
        return {"teacher": Path(distill.teacher) if Path(distill.teacher).is_dir() else distill.teacher}

    def prepare(self, model: PreTrainedModel) -> dict[str, Any]:
        """Freeze what is not trained, add the gates, and return the nested trainer's arguments."""
        if self.train.trainable:
            matching = _matching(model, self.train.trainable)
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name in matching)
        old = self._old_entries(model)
        if self.train.exits is not None:
            model.config.exit_layers = list(self.train.exits.layers)
            if self.train.exits.gates:
                model.add_module(GATES, self._gates(model))
        objective = None
        if self.objective:
            objective = NestedObjective(model, self.train, seed=self.recipe.seed, teacher=self._teacher())
        return {
            "objective": objective,
            "old_entries": old,
            "continued": self.recipe.model.path is not None,
        }

    def _old_entries(self, model: PreTrainedModel) -> OldEntries | None:
        if self.train.expanded is None:
            return None
        share = 0.0 if self.train.expanded == "expanded_only" else self.train.old_learning_rate_share
        return OldEntries(model, Shape(**model.config.expanded_from), share)

    def _gates(self, model: PreTrainedModel) -> nn.ModuleDict:
        """Return the base's gates, where it has them, or new ones."""
        assert self.train.exits is not None
        width, path = model.config.hidden_size, self.recipe.model.path
        found = load_gates(Path(path)) if path and Path(path).is_dir() else {}
        gates = nn.ModuleDict()
        for layer in self.train.exits.layers:
            gate = ExitGate(width)
            if layer in found and found[layer].width == width:
                gate.load_state_dict(found[layer].state_dict())
            gates[str(layer)] = gate
        return gates

    def _teacher(self) -> PreTrainedModel | None:
        if self.train.distill is None:
            return None
        dtype = getattr(torch, self.recipe.model.dtype)
        teacher = load_model(Model(path=self.train.distill.teacher), dtype=dtype)
        teacher.requires_grad_(False)
        teacher.to(self.args.device)  # type: ignore[arg-type]
        return teacher.eval()


def _config_of(model: Model) -> Any:
    """Return the config of a base, without its weights."""
    try:
        if model.path is not None:
            return AutoConfig.from_pretrained(
                model.path, revision=model.revision or "main", trust_remote_code=model.trust_remote_code
            )
        fields = dict(model.config)
        return AutoConfig.for_model(fields.pop("model_type", ""), **fields)
    except (OSError, ValueError, TypeError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"model {model.path or 'model.config'} cannot be read: {first}") from error


def _matching(model: nn.Module, patterns: list[str]) -> set[str]:
    """Return the names of parameters that one of the patterns fits.

    Raises:
        UserError: a pattern fits none.
    """
    names = [name for name, _ in model.named_parameters()]
    found = set()
    for pattern in patterns:
        fitting = {name for name in names if fnmatchcase(name, pattern)}
        if not fitting:
            words = sorted({word for name in names for word in name.split(".") if not word.isdigit()})
            hint = did_you_mean(pattern.strip("*."), words)
            raise UserError(f"train.trainable: no parameter is named like '{pattern}'{hint}")
        found |= fitting
    return found
