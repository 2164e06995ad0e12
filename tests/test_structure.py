"""The house's own rules: imports run downwards, without circles, and nothing reaches into a system from outside."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks import structure


@pytest.fixture(scope="module")
def found() -> structure.Structure:
    return structure.read()


def test_imports_run_downwards_without_circles(found: structure.Structure) -> None:
    assert found.upward == []
    assert found.circles == []


def test_nothing_imports_the_inside_of_a_system(found: structure.Structure) -> None:
    assert found.into_systems == []


def test_files_hold_one_idea_and_functions_can_be_seen_whole(found: structure.Structure) -> None:
    assert {name: lines for name, lines in found.lines.items() if lines > 400} == {}
    assert {name: lines for name, lines in found.functions.items() if lines > 60} == {}


def test_the_rules_see_what_they_forbid() -> None:
    broken = structure.Structure(
        imports={
            "agentforge.recipe.a": {"agentforge.trainers.b"},
            "agentforge.trainers.b": {"agentforge.systems.adamba.modeling.shape", "agentforge.recipe.a"},
        }
    )
    assert broken.upward == [
        ("agentforge.recipe.a", "agentforge.trainers.b"),
        ("agentforge.trainers.b", "agentforge.systems.adamba.modeling.shape"),
    ]
    assert broken.circles == [["agentforge.recipe.a", "agentforge.trainers.b"]]
    assert broken.into_systems == [("agentforge.trainers.b", "agentforge.systems.adamba.modeling.shape")]


def test_a_plain_training_loads_no_model_of_a_system() -> None:
    loaded = """
import sys
import agentforge.trainers.supervised.method, agentforge.trainers.train, agentforge.evaluation.evaluate
from agentforge.recipe.loading import load_recipe
load_recipe("aj/sft")
print(*sorted(name for name in sys.modules if name.startswith("agentforge.systems.adamba.")))
"""
    run = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, timeout=120, check=True)
    light = {"checkpoint_types", "operations", "recipe_sections", "usage"}
    assert {name.removeprefix("agentforge.systems.adamba.") for name in run.stdout.split()} <= light
