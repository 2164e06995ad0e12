"""DPO and KTO as a stage: a base and episodes in, an adapter or a model that prefers what succeeded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl import DPOConfig, KTOConfig

from agentforge.data.chat_template import install_template
from agentforge.data.tokenizer import load_tokenizer
from agentforge.environments.registry import load_class
from agentforge.errors import CheckRefused, UserError
from agentforge.models.build import build_model
from agentforge.models.row_isolation import require
from agentforge.recipe.schema import Recipe
from agentforge.rollouts.episode_store import EPISODES, read_episodes
from agentforge.trainers.arguments import build_arguments
from agentforge.trainers.callbacks.limits import LimitsCallback
from agentforge.trainers.guarded_trainer import GuardedTrainer, RunCounters
from agentforge.trainers.method import Method
from agentforge.trainers.preference.dpo import DPOTrainer
from agentforge.trainers.preference.kto import EpisodeCollator, KTOTrainer
from agentforge.trainers.preference.pairs import labelled_episodes, refuse_reserved, turn_pairs

log = logging.getLogger(__name__)


class PreferenceMethod(Method):
    """Episodes of `collect`, this recipe's own or those that `train.episodes` names."""

    args: DPOConfig | KTOConfig

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        method = recipe.train.method
        if recipe.model.path is None:
            raise UserError(f"train.method {method} needs model.path: a model that has played")
        if recipe.train.args.get("eval_strategy", "no") != "no":
            raise UserError(f"train.args.eval_strategy: {method} has no eval split; `agentforge evaluate` plays")
        if recipe.train.args.get("padding_free"):
            raise UserError(f"train.args.padding_free has no effect with {method}; leave it out")
        self.directories = [Path(path) for path in recipe.train.episodes] or [recipe.artifact("episodes")]
        self.tokenizer = load_tokenizer(recipe.model.path, recipe.model.revision)
        install_template(self.tokenizer, recipe.data.template)
        self.rows, self.dropped = self._rows(self.tokenizer)
        config = DPOConfig if method == "dpo" else KTOConfig
        arguments = build_arguments(recipe, config, recipe.trained, evaluates=False, defaults=self._defaults())
        assert isinstance(arguments.parent, DPOConfig | KTOConfig)
        self.args = arguments.parent

    def _rows(self, tokenizer: PreTrainedTokenizerBase) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """Return the rows in the order they are read in, and the counts of what was left out."""
        for directory in self.directories:
            if not (directory / EPISODES).is_file():
                raise UserError(
                    f"{directory} has no {EPISODES}; run `agentforge collect`, or name directories in train.episodes"
                )
        played = (episode for directory in self.directories for episode in read_episodes(directory / EPISODES))
        make_rows = turn_pairs if self.recipe.train.method == "dpo" else labelled_episodes
        rows, dropped = make_rows(refuse_reserved(played, _ids(self.recipe)), tokenizer, self.recipe.data.max_length)
        where = ", ".join(map(str, self.directories))
        left_out = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        log.info("%d rows from %s; left out: %s", len(rows), where, left_out or "nothing")
        if not rows:
            raise CheckRefused(
                f"{where}: there is nothing to prefer ({left_out or 'no episodes'}); a pair is a success and a failure "
                "of the same task: collect with a policy that does both, or name its episodes and the expert's"
            )
        if self.recipe.train.method == "kto" and len({row["label"] for row in rows}) == 1:
            raise CheckRefused(f"{where}: all {len(rows)} episodes ended alike; KTO needs successes and failures")
        Random(self.recipe.seed).shuffle(rows)  # KTO reads them in this order
        return rows, dict(dropped)

    def _defaults(self) -> dict[str, Any]:
        revision = self.recipe.model.revision
        defaults: dict[str, Any] = {"model_init_kwargs": {"revision": revision}} if revision else {}
        if self.recipe.train.method == "kto":
            good = sum(row["label"] for row in self.rows)
            bad = len(self.rows) - good
            # as much weight on all successes as on all failures (arXiv 2402.01306, eq. 8)
            defaults |= {"desirable_weight": max(1.0, bad / good), "undesirable_weight": max(1.0, good / bad)}
        return defaults

    def inputs(self) -> dict[str, Path | str]:
        return {f"episodes {path}": path for path in self.directories} | super().inputs()

    def make_trainer(
        self, directory: Path, counters: RunCounters, limits: LimitsCallback, callbacks: Sequence[TrainerCallback]
    ) -> GuardedTrainer:
        recipe, tokenizer = self.recipe, self.tokenizer
        base = build_model(
            recipe.model,
            len(tokenizer),
            seed=recipe.seed,
            train_all=recipe.train.lora is None,
            device=self.args.device,
        )
        require(base, "right", f"train.method {recipe.train.method}: rows of unlike length cannot be compared")
        model = self.adapted(base)
        options: dict[str, Any] = {
            "model": model,
            "args": self.args,
            "train_dataset": Dataset.from_list(self.rows),
            "processing_class": tokenizer,
            "callbacks": [limits, *callbacks],
            "guards": self.guards(counters),
        }
        trainer: GuardedTrainer
        if recipe.train.method == "dpo":
            trainer = DPOTrainer(**options)
        else:
            assert tokenizer.pad_token_id is not None
            multiple = self.args.pad_to_multiple_of
            assert not isinstance(multiple, str)  # the parent reads "auto"
            collator = EpisodeCollator(tokenizer.pad_token_id, None, multiple)
            trainer = KTOTrainer(**options, data_collator=collator)
        if isinstance(model, PeftModel):
            model.delete_adapter("ref")  # a copy of an adapter that is 0 now: switching the adapter off is the same
        return trainer

    def metrics(self, trainer: GuardedTrainer) -> dict[str, Any]:
        return {"rows": len(self.rows), "left_out": self.dropped}


def _ids(recipe: Recipe) -> dict[str, str]:
    """Return the id, which decides on the split, of each environment that has another name in the recipe."""
    classes = {name: options["class"] for name, options in recipe.environments.items() if "class" in options}
    return {name: load_class(target, f"environments.{name}.class").id for name, target in classes.items()}
