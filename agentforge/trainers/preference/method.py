"""DPO and KTO as a stage: a base and episodes in, an adapter or a model that prefers what succeeded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import TrainerCallback
from trl import DPOConfig, KTOConfig

from agentforge.data.preference_rows import base_tokenizer, read_preferences
from agentforge.data.sources.open_sources import OpenSource
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
    """Preferences of files (`train.preferences`) or of episodes: those of `train.episodes`, or this recipe's own."""

    args: DPOConfig | KTOConfig

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        method = recipe.train.method
        self.directories = [Path(path) for path in recipe.train.episodes] or [recipe.artifact("episodes")]
        self.tokenizer = base_tokenizer(recipe)
        self.sources: list[OpenSource] = []
        self.counts: dict[str, Any] = {}
        if recipe.train.preferences:
            read = read_preferences(recipe, self.tokenizer)
            self.sources, self.rows, self.counts = read.sources, read.rows, read.counts
        else:
            self.rows = self._read_episodes()
        Random(recipe.seed).shuffle(self.rows)  # KTO reads them in this order
        config = DPOConfig if method == "dpo" else KTOConfig
        arguments = build_arguments(recipe, config, recipe.trained, evaluates=False, defaults=self._defaults())
        assert isinstance(arguments.parent, DPOConfig | KTOConfig)
        self.args = arguments.parent

    def _read_episodes(self) -> list[dict[str, Any]]:
        """Return the rows of the episodes."""
        for directory in self.directories:
            if not (directory / EPISODES).is_file():
                raise UserError(
                    f"{directory} has no {EPISODES}; run `agentforge collect`, or name directories in train.episodes"
                )
        played = (episode for directory in self.directories for episode in read_episodes(directory / EPISODES))
        make_rows = turn_pairs if self.recipe.train.method == "dpo" else labelled_episodes
        episodes = refuse_reserved(played, _ids(self.recipe))
        rows, dropped = make_rows(episodes, self.tokenizer, self.recipe.data.max_length)
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
        self.counts = dict(dropped)
        return rows

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
        if not self.sources:
            return {f"episodes {number}": path for number, path in enumerate(self.directories)} | super().inputs()
        files: dict[str, Path | str] = {}
        for source in self.sources:
            kept = {f"{source.name} {file.name}": file for file in source.files}
            files |= kept if source.remote is None else source.remote.inputs(source.dataset)
        return files | super().inputs()

    def relevant(self) -> dict[str, Any]:
        """Return the same without the directories of the episodes: they are inputs, which may be moved."""
        found = super().relevant()
        found["train"].pop("episodes", None)
        return found

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
            new_tokens=self.new_tokens,
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
        return {"rows": len(self.rows), ("sources" if self.sources else "left_out"): self.counts}


def _ids(recipe: Recipe) -> dict[str, str]:
    """Return the id, which decides on the split, of each environment that has another name in the recipe."""
    classes = {name: options["class"] for name, options in recipe.environments.items() if "class" in options}
    return {name: load_class(target, f"environments.{name}.class").id for name, target in classes.items()}
