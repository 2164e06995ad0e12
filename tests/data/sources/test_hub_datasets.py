"""Data sets of the Hub without a card: configurations, splits and revisions, by the page's metadata or by the names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from datasets import disable_progress_bars

from agentforge.data.sources import hub_files
from agentforge.data.sources.download import download
from agentforge.data.sources.hub_datasets import choose_hub_files, hub_dataset
from agentforge.data.sources.open_sources import open_sources
from agentforge.data.sources.readers import ReadCounts
from agentforge.data.sources.source_files import MissingData, locate
from agentforge.errors import UserError
from agentforge.recipe.schema import Data, Recipe, Source
from tests.data.hub_server import COMMIT, FakeHub

PAGE = """---
license: mit
configs:
- config_name: main
  default: true
  data_files:
  - {split: train, path: "main/part-*"}
  - {split: test, path: ["main/held.jsonl"]}
- config_name: other
  data_files: other/*.jsonl
---
# Things
"""
ROW = b'{"question": "%s?", "answer": "%s"}\n'


def chosen(names: list[str], page: str | None = None, **line: str) -> list[str]:
    source = Source(dataset="org/things", **line)  # type: ignore[arg-type]
    return choose_hub_files(hub_dataset(source), names, source.split, page)


@pytest.mark.parametrize(
    ("names", "line", "expected"),
    [
        (["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet", "README.md"], {}, 0),
        (["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"], {"split": "test"}, 1),
        (["alpaca_data.json", "dataset_infos.json", "LICENSE.md"], {}, 0),
        (["test.jsonl", "rows.jsonl"], {}, 1),
        (["en/train/0000.parquet", "de/train/0000.parquet"], {"config": "de"}, 1),
        (["en-train.csv", "de-train.csv"], {"config": "de"}, 1),
        (["train.jsonl", "train.parquet"], {}, 1),
        (["train.jsonl.zst", "notes.txt"], {}, 0),
    ],
)
def test_names_decide_where_the_page_says_nothing(names: list[str], line: dict[str, str], expected: int) -> None:
    assert chosen(names, **line) == [names[expected]]


def test_a_set_that_is_only_for_evaluation_is_not_taken_for_training() -> None:
    assert chosen(["test.jsonl", "validation.jsonl"]) == []
    assert chosen(["train.jsonl"], split="test") == []


def test_the_page_goes_before_the_names() -> None:
    names = ["main/part-1.jsonl", "main/part-2.jsonl", "main/held.jsonl", "other/train.jsonl", "train.jsonl"]
    assert chosen(names, PAGE) == names[:2]
    assert chosen(names, PAGE, split="test") == names[2:3]
    assert chosen(names, PAGE, config="other") == names[3:4]
    with pytest.raises(UserError, match="no configuration 'othr'; did you mean 'other'"):
        chosen(names, PAGE, config="othr")
    with pytest.raises(UserError, match=r"no split 'validation'.*it has: train, test"):
        chosen(names, PAGE, split="validation")
    with pytest.raises(UserError, match="has the configurations main, other; name one"):
        chosen(names, PAGE.replace("  default: true\n", ""))
    assert chosen(names, "---\n: [broken\n---\n") == ["other/train.jsonl", "train.jsonl"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    disable_progress_bars()
    monkeypatch.setenv("AGENTFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub_files, "TIMEOUT", 5.0)
    monkeypatch.chdir(tmp_path)
    files = {
        "README.md": PAGE.encode(),
        "main/part-1.jsonl": ROW % (b"one", b"1"),
        "main/held.jsonl": ROW % (b"held", b"2"),
        "other/x.jsonl": ROW % (b"other", b"3"),
    }
    server = FakeHub("org/things", files)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield server
    server.close()


def fetched(**line: str) -> list[str]:
    mix = [{"dataset": "org/things", **line}]
    report = download(Recipe.model_validate({"name": "x", "data": {"mix": mix}}))
    assert report.sources[0].revision == COMMIT
    [source], _ = open_sources(Data.model_validate({"mix": mix}))
    return [raw["question"] for raw in source.raw_rows(ReadCounts())]


def test_a_repository_is_a_data_set(hub: FakeHub) -> None:
    with pytest.raises(MissingData, match=r"no file or folder org/things here, .* run `agentforge download`"):
        locate(Source(dataset="org/things"), Data())
    assert fetched() == ["one?"]
    before = dict(hub.requests)
    assert fetched() == ["one?"] and dict(hub.requests) == before, "a second run asks the network nothing"
    assert fetched(split="test") == ["held?"]
    assert fetched(config="other", revision=COMMIT) == ["other?"]
    assert fetched() == ["one?"], "what other lines have fetched is not taken for this one"


def test_a_streamed_set_is_here_only_while_it_is_read(hub: FakeHub, tmp_path: Path) -> None:
    hub.files = {f"data/train-{n}.jsonl": ROW % (b"q%d" % n, b"a") for n in range(3)}
    mix = [{"dataset": "org/things", "stream": True}]
    report = download(Recipe.model_validate({"name": "x", "data": {"mix": mix}}))
    assert len(report.sources[0].files) == 3 and report.sources[0].bytes == 0
    [source], _ = open_sources(Data.model_validate({"mix": mix}))
    cached = set()
    for raw in source.raw_rows(ReadCounts()):
        cached.add((raw["question"], *sorted(path.name for path in (tmp_path / "hub").rglob("*.jsonl"))))
    assert cached == {(f"q{n}?", f"train-{n}.jsonl") for n in range(3)}
    assert not list((tmp_path / "hub").rglob("*.jsonl"))
    assert not [path for path in (tmp_path / "hub").rglob("blobs/*") if path.is_file()]
    assert source.remote is not None and len(source.remote.inputs("things")) == 3
    first = next(rows := source.raw_rows(ReadCounts()))
    rows.close()
    assert first["question"] == "q0?" and not list((tmp_path / "hub").rglob("*.jsonl"))
    with pytest.raises(UserError, match="`stream` is for data sets of the Hub"):
        locate(Source(dataset="a.jsonl", stream=True), Data())


def test_rows_that_only_the_conversion_has(hub: FakeHub) -> None:
    hub.files = {"things.py": b"import datasets"}
    hub.converted = {"default/train/0000.jsonl": ROW % (b"converted", b"4")}
    mix = [{"dataset": "org/things"}]
    download(Recipe.model_validate({"name": "x", "data": {"mix": mix}}))
    [source], _ = open_sources(Data.model_validate({"mix": mix}))
    assert [raw["question"] for raw in source.raw_rows(ReadCounts())] == ["converted?"]


def test_what_is_not_there_is_said(hub: FakeHub) -> None:
    hub.files = {"notes.pdf": b"x"}
    with pytest.raises(UserError, match=r"org/things has no files of the split 'train' \(it has notes.pdf ...\)"):
        download(Recipe.model_validate({"name": "x", "data": {"mix": [{"dataset": "org/things"}]}}))
    with pytest.raises(UserError, match="`config` is for data sets of the Hub"):
        locate(Source(dataset="a.jsonl", config="x"), Data())


def test_a_mirror_and_folders_have_splits_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mirror/org/things/data/train.jsonl", "mirror/org/things/data/test.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(ROW % (b"x", b"y"))
    mirrored = locate(Source(dataset="org/things", split="test"), Data(hub_mirror="mirror"))
    assert [path.name for path in mirrored] == ["test.jsonl"]

    def names(split: str | None = None) -> list[str]:
        return [path.name for path in locate(Source(dataset="mirror/org/things/data", split=split), Data())]

    assert names() == ["train.jsonl"] and names("test") == ["test.jsonl"]
    with pytest.raises(MissingData, match="has no files of the split 'dev'"):
        names("dev")
