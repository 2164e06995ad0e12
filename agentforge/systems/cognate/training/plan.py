"""What a recipe that trains a Cognate gets: its objective, refused before anything is opened where it cannot be."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentforge.data.tokenizer import load_tokenizer
from agentforge.errors import UserError
from agentforge.evaluation.losses.measure import count_bytes
from agentforge.models.build import config_of
from agentforge.recipe.schema import Recipe
from agentforge.recipe.section import is_default, keys_of
from agentforge.systems.cognate.checkpoint_types import OWN_TYPE
from agentforge.systems.cognate.recipe_sections import CognateTrain
from agentforge.systems.cognate.training.objective import CognateObjective
from agentforge.trainers.arguments import Arguments
from agentforge.trainers.supervised.additions import Additions, TrainingPlan

# The parents' features that act on logits or inside the loss, where the objective does not pass.
UNSUPPORTED = ("label_smoothing_factor", "use_liger_kernel", "neftune_noise_alpha")


def training_plan(recipe: Recipe, arguments: Arguments) -> CognatePlan | None:
    """Return the plan of a recipe that trains a Cognate, else None.

    Raises:
        UserError: the recipe has keys of Cognate, and trains another model.
    """
    model_type = config_of(recipe.model).model_type
    if model_type == OWN_TYPE:
        return CognatePlan(recipe, arguments)
    for key in CognateTrain.model_fields:
        if not is_default(recipe.train, key):
            raise UserError(f"train.{key} is for a cognate, but the model is a {model_type}; leave it out")
    return None


class CognatePlan(TrainingPlan):
    """A training of a Cognate."""

    def __init__(self, recipe: Recipe, arguments: Arguments) -> None:
        """Check the recipe.

        Raises:
            UserError: an argument would be ignored.
        """
        self.recipe, self.train = recipe, keys_of(recipe.train, CognateTrain)
        for name in UNSUPPORTED:
            if getattr(arguments.parent, name, None):
                raise UserError(f"train.args.{name} does not act on the loss of a cognate; leave it out")
        if getattr(arguments.parent, "loss_type", "nll") != "nll":
            raise UserError("train.args.loss_type: a cognate has a loss of its own; leave it out")

    def prepare(self, model: PreTrainedModel) -> Additions:
        """Return the objective."""
        tokenizer = load_tokenizer(self.recipe.artifact("data") / "tokenizer")
        sizes = token_bytes(tokenizer, model.config.vocab_size)
        return Additions(CognateObjective(model, gate_annealing=self.train.gate_annealing, bytes_of=sizes))


def token_bytes(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Tensor | None:
    """Return how many bytes of text each token `(V,)` stands for; None: the tokenizer's tokens are no bytes."""
    if count_bytes([0], tokenizer) is None:
        return None
    known = min(len(tokenizer), vocab_size)
    sizes = [count_bytes([token], tokenizer) for token in range(known)]
    return torch.tensor([size or 0 for size in sizes] + [0] * (vocab_size - known))
