"""The page: what it shows, that nothing in it can act, and that a browser needs nothing else."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from agentforge.artifacts import stage_directory
from agentforge.evaluation import evaluate as stage
from agentforge.evaluation.evaluate import evaluate
from agentforge.evaluation.pipeline_artifacts import PipelineArtifacts
from agentforge.evaluation.report.page import duration, render, report
from agentforge.evaluation.report.svg import Dot, Series, interval_chart, line_chart, ticks
from agentforge.models.locate_model import ModelLocation
from agentforge.pipeline import run
from agentforge.recipe.schema import Recipe, Stage
from agentforge.rollouts.policies.scripted import ScriptedPolicy
from tests.evaluation.toy import skilled, toy_recipe

EVIL = "</pre><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">&lt;"
VOID = {"meta", "link", "img", "br", "hr", "input"}


def made_system(directory: Path, monkeypatch: pytest.MonkeyPatch, trained: bool = True) -> PipelineArtifacts:
    """A system with three models, one of which writes HTML."""
    weights = directory / "weights"
    weights.write_text("none")
    policies = {
        "base": ScriptedPolicy(lambda _: EVIL, "base"),
        "lora": skilled(0.6, "lora"),
        "merged": skilled(0.9, "merged"),
    }
    monkeypatch.setattr(stage, "locate_model", lambda _, which: ModelLocation("hf", str(weights), which))
    monkeypatch.setattr(stage, "open_policy", lambda place, rollouts: policies[place.label])
    recipe = toy_recipe(directory, description=f"A toy {EVIL}", train={"lora": {"r": 4}})
    for label in policies:
        evaluate(recipe, label)
    if trained:
        write_training(recipe)
    stages = [Stage(verb="prepare"), Stage(verb="train"), *(Stage(verb="evaluate", model=name) for name in policies)]
    return PipelineArtifacts(recipe, [(one, recipe) for one in stages])


def write_training(recipe: Recipe) -> None:
    with stage_directory(recipe.trained, stage="train", recipe={}) as work:
        work.metrics = {"dollars": 12.5, "trainable_parameters": 4321}
        (work.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in logged(40)) + '{"step": 4')


def logged(steps: int) -> Iterator[dict[str, Any]]:
    for step in range(1, steps + 1):
        yield {
            "step": step,
            "loss": 2 / step,
            "reward": step / steps,
            "success/say": 0.5,
            f"odd<b>{EVIL}": step % 3,
            "learning_rate": 1e-4,
        }
        if step % 10 == 0:
            yield {"step": step, "eval_loss": 2.1 / step}


class Strict(HTMLParser):
    """Checks that elements nest, and collects tags, addresses and text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, (tag, self.open[-3:])
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_shows_scores_curves_frontier_episodes_cost_and_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = made_system(tmp_path, monkeypatch)
    path = report(system)
    page = Strict(path.read_text(encoding="utf-8"))
    text = " ".join(" ".join(page.text).split())
    for heading in ("Scores", "Frontier", "Learning curves", "Episodes", "What it cost", "Recipe"):
        assert heading in text
    assert "80% intervals" in text and "best trivial strategy" in text and "weighted by n" in text
    assert "4,321 parameters trained" in text and "$12.50" in text and "40 steps" in text
    assert "Toy-v0.1.0-data: agentforge prepare" in text, "what a stage has not made yet is said"
    assert "hill" in text and "turn 3" in text and "no valid action" in text
    assert page.tags.count("svg") == 2 + 1 + 5, "two environments, their frontier, four charts and one odd curve"
    assert page.tags.count("polyline") == 6
    before = path.stat().st_mtime_ns
    assert report(system).stat().st_mtime_ns == before, "nothing has changed"
    evaluate(system.recipe, "expert")
    assert report(system).stat().st_mtime_ns != before


def test_text_of_models_is_shown_and_never_read_as_html(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = render(made_system(tmp_path, monkeypatch))
    page = Strict(written)
    assert EVIL in "".join(page.text), "what the model wrote can be read as it wrote it"
    assert not {"script", "iframe", "object", "embed", "img", "form", "base"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    addresses = [value for name, value in page.attributes if name in ("src", "href", "action", "data", "xlink:href")]
    assert all(address.startswith(("#", "data:,")) for address in addresses)
    assert "default-src 'none'" in written and "url(" not in written and "@import" not in written


@pytest.mark.parametrize("state", ["nothing", "running", "evaluated"])
def test_a_page_of_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    if state == "evaluated":
        system = made_system(tmp_path, monkeypatch, trained=False)
    else:
        recipe = toy_recipe(tmp_path)
        system = PipelineArtifacts(recipe, [(Stage(verb="train"), recipe), (Stage(verb="collect"), recipe)])
    if state == "running":
        partial = system.recipe.trained.with_name(f".{system.recipe.trained.name}.partial")
        partial.mkdir(parents=True)
        (partial / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in logged(12)))
    text = " ".join(Strict(report(system).read_text(encoding="utf-8")).text)
    assert f"{system.recipe.trained.name}: agentforge train" in text
    assert ("Learning curves" in text) == (state == "running")
    assert ("not finished" in text) == (state == "running")
    assert ("Frontier" in text) == (state == "evaluated")
    assert "What it cost" in text


def test_run_makes_the_page_as_a_stage(tmp_path: Path) -> None:
    file = tmp_path / "toy.yaml"
    recipe = toy_recipe(tmp_path).model_dump(include={"name", "output_dir", "environments"})
    stages = [{"verb": "evaluate", "model": "random"}, {"verb": "report"}]
    file.write_text(json.dumps(recipe | {"evaluate": {"environments": {"tasks": 10}}, "stages": stages}))
    made: list[Any] = []
    run(str(file), announce=lambda _, path: made.append(path))
    page = made[-1].read_text(encoding="utf-8")
    assert page.count("<svg") == 2 and "Not there yet" not in page


def test_charts_hold_what_they_are_given() -> None:
    chart = str(line_chart("loss", [Series("loss", 1, [(step, float(step % 7)) for step in range(5000)])]))
    assert chart.count(",") < 900, "a line has no more points than pixels"
    assert not line_chart("loss", [Series("loss", 1, [(1.0, float("nan"))])])
    drawn = str(interval_chart("x", [Dot("<m>", 0, 0.5, 0.4, 0.6)], chance=0.25, trivial=None))
    assert "&lt;m&gt;: 50.0% [40.0%, 60.0%]" in drawn and 'class="chance"' in drawn and "trivial" not in drawn
    assert ticks(0, 1) == pytest.approx([0, 0.25, 0.5, 0.75, 1]) and ticks(3, 3) == [3]
    assert [duration(s) for s in (3, 600, 9000)] == ["3.0 s", "10.0 min", "2.5 h"]


# -- in a browser ---------------------------------------------------------------------------------------------------

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome is installed")


class Listener:
    """A proxy that answers nothing and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        listener = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                listener.asked.append(self.path)
                self.send_error(404)

            do_CONNECT = do_POST = do_HEAD = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def requests(self) -> list[str]:
        # what the browser asks for on its own account, whatever the page
        return [path for path in self.asked if "google" not in path and "gvt1" not in path]


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.server.shutdown()


def browse(page: Path, listener: Listener, *options: str) -> subprocess.CompletedProcess[str]:
    """Open a page; its console goes to stderr, and every request to the listener."""
    profile = page.parent / "profile"
    flags: Sequence[str] = (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--disable-extensions", "--hide-scrollbars",
        "--enable-logging=stderr", f"--user-data-dir={profile}", "--virtual-time-budget=2000",
        f"--proxy-server=127.0.0.1:{listener.server.server_address[1]}", "--proxy-bypass-list=<-loopback>",
    )  # fmt: skip
    command = [str(BROWSER), *flags, *options, page.resolve().as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.browser
@needs_browser
def test_a_browser_opens_it_without_errors_and_asks_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: Listener
) -> None:
    page = report(made_system(tmp_path, monkeypatch))
    opened = browse(page, listener, "--dump-dom")
    assert "CONSOLE" not in opened.stderr, opened.stderr
    assert "<title>Toy</title>" in opened.stdout, "no text of a model has run"
    assert opened.stdout.count("<svg") == 8
    assert listener.requests() == []
    picture = tmp_path / "page.png"
    browse(page, listener, "--window-size=1200,2400", f"--screenshot={picture}")
    assert picture.stat().st_size > 50_000, "an empty page is a few kilobytes"


@pytest.mark.browser
@needs_browser
def test_the_browser_test_can_fail(tmp_path: Path, listener: Listener) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<script>console.error('broken')</script><img src='http://elsewhere.test/x.png'>")
    opened = browse(bad, listener, "--dump-dom")
    assert "CONSOLE" in opened.stderr and "broken" in opened.stderr
    assert [path for path in listener.requests() if "elsewhere.test" in path]
