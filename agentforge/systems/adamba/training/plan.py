"""What a recipe asks for beside the labels' loss: checked before anything is made, then given to model and trainer."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from agentforge.errors import CheckRefused, UserError
from agentforge.models.build import config_of, load_model
from agentforge.models.row_isolation import isolation_of
from agentforge.recipe.schema import Model, Recipe
from agentforge.recipe.section import keys_of
from agentforge.systems.adamba.checkpoint_types import OWN_TYPE, PLAIN_TYPE
from agentforge.systems.adamba.exits.exits import GATES as GATES_FILE
from agentforge.systems.adamba.exits.exits import ExitGate, load_gates
from agentforge.systems.adamba.modeling.shape import AdambaShape, resized
from agentforge.systems.adamba.recipe_sections import AdambaTrain
from agentforge.systems.adamba.training.calibrate_after_training import calibrate_after_training
from agentforge.systems.adamba.training.objective import GATES, NestedObjective
from agentforge.systems.adamba.training.old_entries import OldEntries
from agentforge.systems.adamba.widths.submodels import parse_width
from agentforge.trainers.arguments import Arguments
from agentforge.trainers.guarded_trainer import GuardedTrainer
from agentforge.trainers.supervised.additions import Additions, TrainingPlan

log = logging.getLogger(__name__)

OBJECTIVES = ("nested", "exits", "distill")
"""Keys that ask for another loss than the labels'."""
# The parents' features that act inside the loss or the model, where the objective does not pass.
UNSUPPORTED = ("label_smoothing_factor", "use_liger_kernel", "torch_compile", "neftune_noise_alpha")


def training_plan(recipe: Recipe, arguments: Arguments) -> NestedPlan | None:
    """Return the plan of a recipe that asks for one of Adamba's objectives, else None."""
    if asks_for(keys_of(recipe.train, AdambaTrain)):
        return NestedPlan(recipe, arguments)
    path = recipe.model.path
    if path is not None and (Path(path) / GATES_FILE).is_file():
        log.warning(
            "%s has %s; without train.exits the result will have no exits, because training changes the layers",
            path,
            GATES_FILE,
        )
    return None


def asks_for(train: AdambaTrain) -> list[str]:
    """Return which of Adamba's keys a recipe has."""
    return [key for key in (*OBJECTIVES, "expanded") if getattr(train, key)]


class NestedPlan(TrainingPlan):
    """A recipe's wishes, none of which can be refused any more.

    Attributes:
        objective: the loss is another than the parent's.
    """

    def __init__(self, recipe: Recipe, arguments: Arguments) -> None:
        """Check them.

        Raises:
            UserError: a key does not go with the model or with another key.
        """
        self.recipe, self.args = recipe, arguments.parent
        self.train = keys_of(recipe.train, AdambaTrain)
        self.objective = any(getattr(self.train, key) for key in OBJECTIVES)
        if recipe.train.lora is not None:
            raise UserError(f"train.{asks_for(self.train)[0]} trains the weights themselves; leave train.lora out")
        config = config_of(recipe.model)
        self._check_model(config, arguments)
        self._check_optimizer()
        self._check_widths(config)
        self._check_exits(config)
        self._check_expansion(config)
        self._check_teacher(config)

    def _check_model(self, config: Any, arguments: Arguments) -> None:
        keys = asks_for(self.train)
        if config.model_type not in (OWN_TYPE, PLAIN_TYPE):
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

    def _check_optimizer(self) -> None:
        if any(word in str(self.args.optim) for word in ("lomo", "layerwise")):
            raise UserError(
                f"train.args.optim {self.args.optim} updates weights before all widths have been trained; "
                "use another one"
            )

    def _check_widths(self, config: Any) -> None:
        if self.train.nested is None:
            return
        shape = AdambaShape.of(config)
        for given in self.train.nested.widths:
            width = parse_width(given)
            if width == 1:
                raise UserError("train.nested.widths: width 1 is always trained; name narrower ones, such as 1/2")
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
                f"train.exits.layers {layers}: give rising numbers from 1 to {depth - 1}, because the model has "
                f"{depth} layers"
            )

    def _check_expansion(self, config: Any) -> None:
        if self.train.expanded is None:
            return
        before = getattr(config, "expanded_from", None)
        if not before:
            raise CheckRefused(
                f"train.expanded: {self.recipe.model.path or 'the model'} has not been expanded (its config has no "
                "expanded_from); run `agentforge surgery` with operation expand first, and train its result"
            )
        if not AdambaShape(**before).fits_in(AdambaShape.of(config)):
            raise CheckRefused(f"expanded_from {before} does not fit {self.recipe.model.path}; expand the model again")

    def _check_teacher(self, config: Any) -> None:
        if self.train.distill is None:
            return
        teacher = self.train.distill.teacher
        size = config_of(Model(path=teacher)).vocab_size
        if size != config.vocab_size:
            raise UserError(
                f"train.distill.teacher: {teacher} has {size} tokens, but the model has {config.vocab_size}; use a "
                "teacher with the model's vocabulary, such as the base it was grafted from"
            )

    def inputs(self) -> dict[str, Path | str]:
        """Return what the result depends on beside base and data."""
        distill = self.train.distill
        if distill is None:
            return {}
        return {"teacher": Path(distill.teacher) if Path(distill.teacher).is_dir() else distill.teacher}

    def prepare(self, model: PreTrainedModel) -> Additions:
        """Add the gates to the model, and return what the trainer does otherwise."""
        old = self._old_entries(model)
        modules: dict[str, nn.Module] = {}
        if self.train.exits is not None:
            model.config.exit_layers = list(self.train.exits.layers)
            if self.train.exits.gates:
                modules[GATES] = self._gates(model)
                model.add_module(GATES, modules[GATES])
        objective = None
        if self.objective:
            objective = NestedObjective(model, self.train, seed=self.recipe.seed, teacher=self._teacher())
        return Additions(
            objective=objective,
            modules=modules,
            on_optimizer=old.attach if old else None,
            before_clipping=old.mask_gradients if old else None,  # what does not move is no part of the norm
            continued=self.recipe.model.path is not None,
        )

    def finish(self, trainer: GuardedTrainer, directory: Path) -> dict[str, Any]:
        """Calibrate exits and fit the router, if the recipe wants them."""
        return calibrate_after_training(trainer, self.train, directory)

    def _old_entries(self, model: PreTrainedModel) -> OldEntries | None:
        if self.train.expanded is None:
            return None
        share = 0.0 if self.train.expanded == "expanded_only" else self.train.old_learning_rate_share
        return OldEntries(model, AdambaShape(**model.config.expanded_from), share)

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
