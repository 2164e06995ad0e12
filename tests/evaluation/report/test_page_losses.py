"""What a report says of losses: phases by width and exit, equal models trained alone, time, surgery and router."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from agentforge.artifacts import stage_directory
from agentforge.evaluation.compare.side_by_side import find_evaluations, tables
from agentforge.evaluation.evaluate import evaluate
from agentforge.evaluation.losses.loss_results import (
    LossEvaluation,
    alone,
    difference,
    on_the_same_rows,
    read_losses,
    shortened,
)
from agentforge.evaluation.pipeline_artifacts import PipelineArtifacts
from agentforge.evaluation.report.page import report
from agentforge.evaluation.report.svg import PlanePoint, plane
from agentforge.recipe.schema import Recipe, Stage
from agentforge.systems.adamba.exits.exits import Exit, save_exits
from agentforge.systems.adamba.modeling.shape import AdambaShape
from agentforge.systems.adamba.widths.submodels import cut
from tests.evaluation.report.test_page import Listener, Strict, browse, listener, needs_browser
from tests.systems.adamba.decoding import random_model
from tests.trainers.tiny import make_rows, write_prepared

__all__ = ["listener"]
ROUTER = {
    "prompts": 30,
    "tolerance": 0.05,
    "shares": {"1/2": 0.75, "1": 0.25},
    "regret": 0.0321,
    "within_tolerance": 0.8,
    "parameters": 0.4375,
    "random": 0.0444,
    "saved": {"mean": 0.0123, "low": -0.001, "high": 0.02},
}
PROOF = {"max_logit_difference": 5.7e-06, "bound": 4.2e-05, "largest_logit": 4.19, "tokens": 800, "dtype": "float32"}


def recipe_of(directory: Path, name: str, **sections: Any) -> Recipe:
    raw = {"name": name, "output_dir": str(directory), "train": {"method": "pretrain"}}
    recipe = Recipe.model_validate(raw | sections)
    write_prepared(recipe.artifact("data"), make_rows(4, 0), make_rows(8, 1 if name != "Other" else 2))
    return recipe


def trained(recipe: Recipe, model: Any, base: Path | str, tokens: int, **metrics: Any) -> Path:
    """A finished training of this model, as `train` leaves it."""
    with stage_directory(recipe.trained, stage="train", recipe={}, inputs={"base": base}) as work:
        model.save_pretrained(work.path)
        work.metrics = {"tokens": tokens, **metrics}
        if model.config.exit_layers:
            exit = Exit(0.06, 0.91, 0.9, 123, 0.88, 0.95, 0.4, "max_probability")
            save_exits(work.path, {1: exit, 2: Exit(None, None, 0.9, 0, confidence="max_probability")})
    return recipe.trained


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> PipelineArtifacts:
    """A grafted model, nested training on it, a model of half its width trained alone, and one on other rows."""
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("system")
    graft = recipe_of(directory, "Phase1", surgery={"operation": "graft"}, evaluate={"loss": {}})
    with stage_directory(graft.operated, stage="surgery", recipe={}) as work:
        random_model(1, vocab_size=64).save_pretrained(work.path)
        work.metrics = {"operation": "graft", "proof": PROOF}
    whole = random_model(2, vocab_size=64, exit_layers=[1, 2])
    losses = {"widths": ["1", "1/2"], "exits": True, "speed": True}
    nested = recipe_of(directory, "Phase2", evaluate={"loss": losses})
    trained(nested, whole, graft.operated, 7_000, router=ROUTER)
    half = AdambaShape.of(whole.config)
    small = cut(random_model(3, vocab_size=64), type(half)(32, 2, 2, 64, 2, 4))
    half_alone = recipe_of(directory, "Half", evaluate={"loss": {"speed": True}})
    trained(half_alone, small, "0" * 64, 6_500)
    other = recipe_of(directory, "Other", model={"path": str(graft.operated)}, evaluate={"loss": {}})
    stages = [
        (Stage(verb="surgery"), graft),
        (Stage(verb="evaluate", model="grafted"), graft),
        (Stage(verb="train"), nested),
        (Stage(verb="evaluate", model="model"), nested),
        (Stage(verb="evaluate", model="model"), half_alone),
        (Stage(verb="evaluate", model="base"), other),
        (Stage(verb="surgery"), recipe_of(directory, "Phase3", surgery={"operation": "expand", "width": "2"})),
    ]
    for stage, recipe in stages:
        if stage.verb == "evaluate":
            evaluate(recipe, stage.model)
    return PipelineArtifacts(graft, stages)


@pytest.fixture(scope="module")
def page(system: PipelineArtifacts) -> Path:
    return report(system)


def cells(page: Path, heading: str) -> list[list[str]]:
    """The rows of the table whose headings begin so, the headings first."""
    found: list[list[str]] = []
    for table in page.read_text(encoding="utf-8").split("<table>")[1:]:
        rows = [
            [" ".join("".join(Strict(f"<p>{cell}</p>").text).split()) for cell in row]
            for row in (_split(part) for part in table.split("<tr>")[1:])
        ]
        if rows and ", ".join(rows[0]).startswith(heading):
            found += rows
    return found


def _split(row: str) -> Iterator[str]:
    for part in row.split("</t")[:-1]:
        if "<t" in part:
            yield part.rsplit("<t", 1)[1].split(">", 1)[1]


def shown(measure: dict[str, float]) -> str:
    return f"{measure['value']:.3f} [{measure['low']:.3f}, {measure['high']:.3f}]"


def size(one: LossEvaluation) -> str:
    return f"{one.widths['1']['parameters']:,}"


def test_the_table_has_each_phase_by_width_and_the_equal_model_beside(system: PipelineArtifacts, page: Path) -> None:
    first, nested, half, _ = read_losses(find_all(system))
    assert [one.label for one in (first, nested, half)] == ["grafted", "Phase2 model", "Half model"]
    rows = cells(page, "model, parameters, width 1")
    assert rows[0] == ["model", "parameters", "width 1", "width 1/2", "1/2, alone"]
    assert rows[1] == ["grafted", size(first), shown(first.widths["1"]["loss"]), "", ""]
    half_loss = shown(half.widths["1"]["loss"])
    assert rows[2] == [nested.label, size(nested), *(shown(nested.widths[w]["loss"]) for w in ("1", "1/2")), half_loss]
    assert rows[3][:3] == [half.label, size(half), half_loss]
    beside = cells(page, "model, width, parameters")
    assert beside[1][1:3] == ["1/2", f"{nested.widths['1/2']['parameters']:,}"]
    assert beside[1][4] == half.label and beside[1][-2:] == ["7,000", "6,500"]


def find_all(system: PipelineArtifacts) -> list[Path]:
    from agentforge.evaluation.pipeline_artifacts import evaluations_of

    return evaluations_of(system.recipes)


def test_rows_are_compared_pair_by_pair_and_other_rows_not_at_all(system: PipelineArtifacts) -> None:
    found = read_losses(find_all(system))
    groups = on_the_same_rows(found)
    assert [len(group) for group in groups] == [3, 1]
    first, nested, half = groups[0]
    apart = difference(nested, "1/2", half)
    assert apart["value"] == pytest.approx(
        nested.widths["1/2"]["loss"]["value"] - half.widths["1"]["loss"]["value"], abs=1e-9
    )
    same = difference(half, "1", half)
    assert (same["value"], same["low"], same["high"]) == (0, 0, 0), "pairs share what is hard about a row"
    assert alone(nested, "1", groups[0]) is None and alone(nested, "1/2", [first, nested]) is None
    assert half.from_scratch and not nested.from_scratch and not first.from_scratch


def test_exits_speeds_surgery_and_router_are_shown(system: PipelineArtifacts, page: Path) -> None:
    nested = read_losses(find_all(system))[1]
    exits = cells(page, "model, exit after 1")
    assert exits[0][1:] == ["exit after 1", "exit after 2", "full depth", "calibrated exits"]
    assert exits[1][4] == shown(nested.report["together"]["loss"])
    calibration = cells(page, "model, exit after, agreement")
    assert calibration[1][5:] == ["0.060", "91.0% [88.0%, 95.0%]", "40.0%", "123"]
    assert calibration[2][4:6] == ["90%", "not used"] and calibration[3][1] == "all together"
    speeds = cells(page, "model, decoded")
    assert [row[1] for row in speeds[1:]] == ["width 1", "width 1/2", "exits", "width 1"]
    assert float(speeds[1][4]) > 0 and speeds[1][6:] == ["1.00", "1.00"]
    proof = cells(page, "artefact, operation")
    assert proof[1] == ["Phase1-v0.1.0-grafted", "graft", "5.7e-06", "4.2e-05", "4.19", "800", ""]
    router = cells(page, "model, prompts")
    assert router[1][3:] == ["1/2: 75%, 1: 25%", "43.8%", "0.0321", "80.0%", "0.0444", "+0.0123 [-0.0010, +0.0200]"]
    text = page.read_text(encoding="utf-8")
    assert "Phase3-v0.1.0-expanded: agentforge surgery" in text, "what surgery has not made yet is said"
    assert text.count("<svg") == 1 and text.count('class="point"') == 4 and text.count('var(--surface)"') == 1


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["A-Tiny-P1-v1", "A-TinyBase-v1", "A-Tiny-P1-v1"], ["Tiny-P1", "TinyBase", "Tiny-P1"]),
        (["A-v1", "A-v2"], ["v1", "v2"]),
        (["A-v1", "B-v1"], ["A", "B"]),
        (["A-B", "A-C-B"], ["B", "C-B"]),
        (["A-A", "A-A-A"], ["A", "A-A"]),
        (["A", "A-B"], ["A", "A-B"]),
        (["A-v1", "A-v1"], ["A-v1", "A-v1"]),
        (["A-v1"], ["A-v1"]),
    ],
)
def test_names_are_shown_without_what_all_have(names: list[str], short: list[str]) -> None:
    assert shortened(names) == short
    assert len(set(short)) == len(set(names))


def test_compare_shows_losses_in_a_terminal(system: PipelineArtifacts) -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    for table in tables(find_evaluations([str(path) for path in find_all(system)]), rule="posterior"):
        console.print(table)
    text = console.export_text()
    assert "width 1/2" in text and "exit after 2" in text and "calibrated exits" in text and " ms" in text
    assert text.count("interval over rows") == 2


def test_a_plane_holds_its_points_and_intervals() -> None:
    places = [
        PlanePoint("1", 5, 2.0, 1.9, 2.1),
        PlanePoint("<1/2>", 3, 2.5, 2.4, 2.6),
        PlanePoint("exits", 4, 2.2, 2.1, 2.3, True),
    ]
    drawn = str(plane("t", "ms", "loss", [("<model>", 1, places)]))
    drawing = Strict(drawn)
    assert drawing.tags.count("circle") == 3 and drawing.tags.count("polyline") == 1
    line = next(value for name, value in drawing.attributes if name == "points")
    assert len(line.split()) == 2, "exits are no width: the line does not join them"
    for name, value in drawing.attributes:
        if name in ("cx", "x1", "x2"):
            assert 0 <= float(value) <= 560
    assert "<model>, <1/2>: ms 3, loss 2.5 [2.4, 2.6]" in drawing.text


@pytest.mark.browser
@needs_browser
def test_a_browser_opens_it_without_errors(page: Path, listener: Listener) -> None:
    opened = browse(page, listener, "--dump-dom")
    assert "CONSOLE" not in opened.stderr, opened.stderr
    assert opened.stdout.count("<svg") == 1 and listener.requests() == []
