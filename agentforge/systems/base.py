"""What a system is: one object that says what a model family brings of its own.

Everything is optional. Where a system says nothing, the house treats its models as any causal language model of
transformers. Code is named by reference (``package.module:attribute``), so that `show` and `plan` can read the object
without importing torch; each consumer imports what it needs when it needs it:

    recipe/schema          sections                   keys that the system adds to a recipe
    models/auto            opens, auto_classes, model_class
    data/prepare           tokenizers
    trainers/              training, optimizers, schedule, lora
    models/surgery         surgery
    evaluation/            evaluations, loss_readings, behaviour, report
    planning/              step_work
    export/                gguf_refusal, adapter_refusal, usage
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agentforge.recipe.section import Section
from agentforge.references import Reference

Place = Literal["train", "surgery", "evaluate", "evaluate.loss", "data"]
"""Sections of a recipe that a system may add keys to."""


def _always(_: Any) -> bool:
    return True


@dataclass(frozen=True)
class Operation:
    """One operation of `surgery`: what makes the new checkpoint, and what its artefact is called.

    Attributes:
        run: function of a `models.surgery.Job` that writes the new checkpoint and returns metrics with the proof.
        suffix: end of the artefact's name, from the recipe's `surgery` section: ``grafted``, ``width-1of2``.
        suffixes: pattern of all suffixes that it can give; by it `--model` knows them.
        reads: split of the recipe's prepared data that it measures on.
        measures: function of the `surgery` section: whether this time it measures at all.
        check: function of the `surgery` section that refuses it before anything is opened.
        config: function of a config.json and the section: the config.json afterwards, for `plan`.
    """

    run: Reference
    suffix: Callable[[Any], str]
    suffixes: str
    reads: Literal["train", "eval"] | None = None
    measures: Callable[[Any], bool] = _always
    check: Callable[[Any], None] | None = None
    config: Reference | None = None


def _none(*_: Any) -> None:
    return None


def _no(_: Mapping[str, Any]) -> bool:
    return False


@dataclass(frozen=True)
class System:
    """A model family.

    Attributes:
        name: as the folder is called; unique.
        opens: tells from a config.json whether the checkpoint is one of the system's.
        auto_classes: module that registers config, model and tokenizer classes with transformers' Auto classes when it
            is imported. It is imported only before such a checkpoint is made or opened.
        model_class: class whose `from_pretrained` opens a checkpoint; None: AutoModelForCausalLM.
        tokenizers: name for `model.tokenizer` to a function without arguments that makes the tokenizer.
        sections: keys that the system adds to the recipe's sections: a subclass of `Section` for each place.
        training: function ``(recipe, arguments) -> trainers.supervised.additions.TrainingPlan | None``: what the system
            adds to a supervised training, refused there if it cannot be; None: this recipe asks for nothing.
        optimizers: name for `train.optimizer` to a function ``(model, args, **options) -> torch.optim.Optimizer``.
        schedule: function ``(recipe) -> trainers.supervised.source_schedule.SourceSchedule | None``: shares of the data
            sources as training goes on.
        lora: function ``(model, options) -> options`` of `peft.LoraConfig` for the system's models.
        surgery: operations by name.
        evaluations: key of the recipe's `evaluate` section to a function ``(recipe, location, work) -> Scores`` of
            `evaluation.own_scores`; it runs where the key is set.
        loss_readings: function ``(model, location, settings) -> evaluation.losses.measure.LossReadings | None``: ways
            to read held-out rows beside the whole model.
        behaviour: function ``(model) -> evaluation.diversity.behaviour.Behaviour | None``: what its models tell of how
            they read each token (steps of thinking, use of a memory), for `evaluate.diversity`.
        report: stage of an artefact to a function of the finished artefacts of that stage that returns sections of a
            report's page, shaped like those of `evaluation.own_scores.page_groups`. They are looked for in the output
            directories of the page's recipes, whatever made them: an experiment that no recipe describes is shown too.
        step_work: function ``(recipe, shape) -> planning.step_work.StepWork | None``: what a step computes beside the
            whole model.
        config_tables: `model_type` to a table of recipe/tables with the fields of its config class, so that `show` and
            `plan` check a config without torch; types without a table are checked by their class.
        check_config: refuses values of `model.config` that do not go together.
        gguf_refusal: from a config.json, why the model has no GGUF; None: it is for llama.cpp to say.
        adapter_refusal: from a base's config.json and the name of a tensor, why no adapter may change it; None: it may.
        usage: from a config.json, a model's path and whether it is an adapter, Markdown on how it is opened; None:
            transformers opens it without further ado.
    """

    name: str
    opens: Callable[[Mapping[str, Any]], bool] = _no
    auto_classes: str | None = None
    model_class: Reference | None = None
    tokenizers: Mapping[str, Reference] = field(default_factory=dict)
    sections: Mapping[Place, type[Section]] = field(default_factory=dict)
    training: Reference | None = None
    optimizers: Mapping[str, Reference] = field(default_factory=dict)
    schedule: Reference | None = None
    lora: Reference | None = None
    surgery: Mapping[str, Operation] = field(default_factory=dict)
    evaluations: Mapping[str, Reference] = field(default_factory=dict)
    loss_readings: Reference | None = None
    behaviour: Reference | None = None
    report: Mapping[str, Reference] = field(default_factory=dict)
    step_work: Reference | None = None
    config_tables: Mapping[str, str] = field(default_factory=dict)
    check_config: Callable[[Mapping[str, Any]], None] = _none
    gguf_refusal: Callable[[Mapping[str, Any]], str | None] = _none
    adapter_refusal: Callable[[Mapping[str, Any], str], str | None] = _none
    usage: Callable[[Mapping[str, Any], str, bool], str | None] = _none
