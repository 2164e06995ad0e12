"""What a user wants of `init`: said by options, or asked on a terminal."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from agentforge.environments.registry import ENVIRONMENTS, FAMILIES, is_known, near
from agentforge.errors import UserError, did_you_mean
from agentforge.planning.first_recipe.bases import SCRATCH, suggested_base
from agentforge.recipe.hardware import TABLES, Hardware, Machine, load_hardware, this_machine
from agentforge.recipe.yaml_files import config_roots

Goal = Literal["sft", "dpo", "kto", "grpo", "pretrain"]
GOALS: tuple[Goal, ...] = get_args(Goal)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Ask = Callable[[str, str | None], str]
"""Asks a person: the question and what Enter means, or None if it means nothing."""


@dataclass(frozen=True)
class Wishes:
    """What is wanted.

    Attributes:
        data: a file, a folder, a glob, an id of the registry or of the Hub; for ``grpo`` an environment.
        base: directory or Hub id, or ``scratch`` for a small model of random weights.
        goal: None: what the data are made for.
        name: of the recipe; its file is ``NAME.yaml``.
    """

    data: str
    base: str
    goal: Goal | None
    name: str
    hardware: Hardware

    @property
    def file(self) -> str:
        return f"{self.name}.yaml"


def complete(
    data: str | None, base: str | None, goal: str | None, name: str, hardware: str | None, ask: Ask | None
) -> Wishes:
    """Return the wishes; what is missing and cannot be known is asked.

    Args:
        ask: None: nobody is there to answer.

    Raises:
        UserError: an option is wrong, or missing with nobody to ask.
    """
    wanted = _goal(goal)
    check_name(name)
    machine = this_machine()
    chosen = load_hardware(hardware) if hardware else hardware_of(machine)
    if data is None:
        if ask is None:
            raise UserError("name the data, as in `agentforge init chats.jsonl`: a file, a folder, or ORG/NAME (Hub)")
        data = _answer(ask, "Your data (a file, a folder, or ORG/NAME of the Hub)", None)
    _check_data(data, wanted, base)
    if base is None:
        near = suggested_base(chosen)
        if ask is None:
            raise UserError(
                f"name the base with --base: a directory, a Hub id (for {chosen}: {near}), or '{SCRATCH}' for a small "
                "model of random weights"
            )
        base = _answer(ask, f"The base to train (a directory, a Hub id, or '{SCRATCH}'); {chosen} has room for", near)
    if not base:
        raise UserError("the name of the base is empty; give a directory or a Hub id")
    return Wishes(data, base, wanted, name, chosen)


def _answer(ask: Ask, question: str, default: str | None) -> str:
    return ask(question, default).strip()


def _goal(goal: str | None) -> Goal | None:
    if goal is None:
        return None
    for known in GOALS:
        if goal == known:
            return known
    raise UserError(f"--goal is '{goal}'; it must be one of {', '.join(GOALS)}{did_you_mean(goal, GOALS)}")


def check_name(name: str) -> None:
    """Refuse a name that no recipe may have, or that stands for one already.

    Raises:
        UserError: with another way.
    """
    if not NAME.fullmatch(name) or name.endswith((".yaml", ".yml")):
        raise UserError(f"--name is '{name}'; it must be letters, digits, '.', '_' and '-', without .yaml at the end")
    if os.path.lexists(f"{name}.yaml"):
        raise UserError(f"{name}.yaml is here already; choose another with --name, or delete it")
    if any((root / name / f"{name}.yaml").is_file() for root in config_roots()):
        raise UserError(f"--name is '{name}', which a shipped recipe is called; choose another")


def _check_data(data: str, goal: Goal | None, base: str | None) -> None:
    if not data:
        raise UserError("the name of the data is empty; give a file, a folder, or ORG/NAME of the Hub")
    if goal == "grpo" and not is_known(data):
        known = [*ENVIRONMENTS, *(f"{family}:NAME" for family in FAMILIES)]
        hint = near(data) or f": {', '.join(known)}"
        raise UserError(f"grpo learns by playing, so name an environment instead of '{data}'{hint}")
    if goal == "grpo" and base == SCRATCH:
        raise UserError("a model from scratch cannot play; name a base that has learnt to answer")
    if goal != "grpo" and is_known(data):
        raise UserError(f"'{data}' is an environment; add --goal grpo to train in it")


def hardware_of(machine: Machine) -> Hardware:
    """Return the file of configs/hardware that fits a machine best: the most GPUs of the right kind.

    Raises:
        UserError: its GPU is in none of them.
    """
    names = {path.stem for root in config_roots() for path in (root / "hardware").glob("*.yaml")} - set(TABLES)
    known = [load_hardware(name) for name in sorted(names)]
    if not machine.gpus:
        return load_hardware("cpu")
    fitting = [hardware for hardware in known if 0 < hardware.gpus <= machine.matching(hardware)]
    if not fitting:
        raise UserError(
            f"no file of configs/hardware describes this machine ({machine}); name the nearest with --hardware: "
            f"{', '.join(one.name for one in known)}"
        )
    return max(fitting, key=lambda one: one.gpus)
