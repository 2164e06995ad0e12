"""Download against a Hub on loopback: pinned, resumed, hash-checked, offline from the cache, plain on what lacks."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from huggingface_hub.utils import disable_progress_bars

from agentforge.data.sources import hub_files as hub_module
from agentforge.data.sources.adapters import SourceOptions, get_adapter
from agentforge.data.sources.dataset_cards import load_card
from agentforge.data.sources.download import download, report_table
from agentforge.data.sources.open_sources import open_evaluation, open_sources
from agentforge.data.sources.readers import ReadCounts, read_rows
from agentforge.data.sources.source_files import MissingData, choose_files, locate, read_lock, resolved_revision
from agentforge.errors import CheckRefused, UserError
from agentforge.recipe.schema import Data, Recipe, Source
from tests.data.hub_server import COMMIT, FakeHub

CARD = """
title: a set on the fake Hub
hub_id: org/things
pin_note: none, so that the first download fixes it
files: {train: ["data/train-*.jsonl", "old.jsonl"], meta: ["meta.json"]}
columns: [text]
licence: MIT
adapter: text
"""
FILES = {
    "data/train-0.jsonl": b'{"text": "zero"}\n' * 3000,
    "data/train-1.jsonl": b'{"text": "one"}\n',
    "old.jsonl": b'{"text": "old"}\n',
    "meta.json": b'[{"text": "meta"}]',
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Own caches and own cards; nothing of the user's is read or written."""
    disable_progress_bars()
    monkeypatch.setenv("AGENTFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub_module, "TIMEOUT", 5.0)
    monkeypatch.chdir(tmp_path)
    write_card(tmp_path, "things", CARD)


def write_card(directory: Path, id: str, text: str) -> None:
    cards = directory / "configs" / "datasets"
    cards.mkdir(parents=True, exist_ok=True)
    (cards / f"{id}.yaml").write_text(text)


def use_endpoint(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    server = FakeHub("org/things", dict(FILES))
    use_endpoint(monkeypatch, server.url)
    yield server
    server.close()


def recipe(*mix: Any, **data: Any) -> Recipe:
    lines = [{"dataset": line} if isinstance(line, str) else line for line in mix]
    return Recipe.model_validate({"name": "x", "data": {"mix": lines, **data}})


def texts(files: list[Path]) -> list[str]:
    return [row["text"] for file in files for row in read_rows(file, ReadCounts())]


def test_files_arrive_once_with_commit_and_hashes_on_record(hub: FakeHub) -> None:
    report = download(recipe("things"))
    assert [(s.dataset, s.status, s.revision, s.licence, s.weight) for s in report.sources] == [
        ("things", "downloaded", COMMIT, "MIT", 1.0)
    ]
    assert texts(locate(Source(dataset="things"), Data())) == ["zero"] * 3000 + ["one"]
    lock = read_lock("org/things", None)
    assert lock is not None and lock.revision == COMMIT == resolved_revision(load_card("things"))
    assert set(lock.files) == {"data/train-0.jsonl", "data/train-1.jsonl"}, (
        "neither old.jsonl nor meta.json were asked for"
    )
    before = dict(hub.requests)
    assert download(recipe("things")).sources[0].status == "here"
    assert dict(hub.requests) == before, "a second run asks the network nothing"


def test_a_second_split_joins_the_first(hub: FakeHub) -> None:
    download(recipe("things"))
    download(recipe({"dataset": "things", "split": "meta"}))
    assert texts(locate(Source(dataset="things", split="meta"), Data())) == ["meta"]
    assert len(locate(Source(dataset="things"), Data())) == 2


@pytest.mark.fault("the Hub breaks off", "download, in mid-stream", "every byte, each asked for once")
def test_a_broken_connection_is_taken_up_where_it_broke(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.cut_after["data/train-0.jsonl"] = 10_000
    download(recipe("things"))
    assert hub.requests["GET data/train-0.jsonl"] == 2
    assert hub.ranges == ["bytes=10000-"]
    assert len(texts(locate(Source(dataset="things"), Data()))) == 3001


@pytest.mark.fault("killed", "download", "the files that were whole")
def test_a_run_after_a_kill_fetches_only_what_was_not_finished(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = hub_module.fetch_file

    def killed(hub_id: str, commit: str, file: hub_module.RemoteFile) -> Any:
        if file.name == "data/train-1.jsonl":
            raise KeyboardInterrupt
        return fetch(hub_id, commit, file)

    monkeypatch.setattr(hub_module, "fetch_file", killed)
    with pytest.raises(KeyboardInterrupt):
        download(recipe("things"))
    with pytest.raises(MissingData):
        locate(Source(dataset="things"), Data())
    monkeypatch.setattr(hub_module, "fetch_file", fetch)
    assert download(recipe("things")).sources[0].status == "downloaded"
    assert hub.requests["GET data/train-0.jsonl"] == 1


@pytest.mark.fault("another file than was published", "download", "no wrong byte is read")
@pytest.mark.parametrize(("name", "split"), [("data/train-0.jsonl", "train"), ("meta.json", "meta")])
def test_a_file_with_other_bytes_is_refused_and_deleted(hub: FakeHub, name: str, split: str) -> None:
    hub.tampered.add(name)
    wanted = recipe({"dataset": "things", "split": split})
    with pytest.raises(CheckRefused, match=rf"org/things: {name} does not match the hash that the Hub lists"):
        download(wanted)
    hub.tampered.clear()
    assert download(wanted).sources[0].status == "downloaded"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("hub_id: org/things", "hub_id: org/nothing"), r"org/nothing is not on the Hub, or it is private"),
        (("pin_note: none, so", "revision: abc123\npin_note: so"), r"org/things has no revision abc123"),
        (
            ('data/train-*.jsonl", "old.jsonl', "data/t-*.parquet"),
            r"has no files data/t-\*\.parquet \(it has data/train-0",
        ),
    ],
)
def test_what_the_hub_does_not_have_is_named(
    hub: FakeHub, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    write_card(tmp_path, "things", CARD.replace(*change))
    with pytest.raises(UserError, match=message) as raised:
        download(recipe("things"))
    assert raised.value.exit_code == 2


def test_a_pin_is_what_is_asked_for(hub: FakeHub, tmp_path: Path) -> None:
    write_card(tmp_path, "things", CARD.replace("pin_note: none, so", f"revision: {COMMIT}\npin_note: so"))
    assert download(recipe("things")).sources[0].revision == COMMIT


def test_an_unreachable_hub_is_one_sentence_that_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    write_card(tmp_path, "more", CARD.replace("org/things", "org/more"))
    with pytest.raises(
        UserError, match=r"missing: things, more; the Hub \(http://127.0.0.1:9\) cannot be reached"
    ) as raised:
        download(recipe("things", "more"))
    assert raised.value.exit_code == 2 and "\n" not in str(raised.value)
    assert str(raised.value).count("cannot be reached") == 1


def test_offline_works_from_the_cache(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    download(recipe("things"))
    hub.close()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert download(recipe("things")).sources[0].status == "here"
    with pytest.raises(UserError, match="missing: things:meta; the Hub is switched off by HF_HUB_OFFLINE"):
        download(recipe({"dataset": "things", "split": "meta"}))


def test_a_truncated_file_in_the_cache_is_missing_and_fetched_again(hub: FakeHub) -> None:
    download(recipe("things"))
    file = locate(Source(dataset="things"), Data())[0].resolve()
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(MissingData):
        locate(Source(dataset="things"), Data())
    with pytest.raises(CheckRefused, match="does not match the hash"):
        download(recipe("things"))
    download(recipe("things"))
    assert len(texts(locate(Source(dataset="things"), Data()))) == 3001


def test_allow_missing_goes_on_and_weighs_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: Any) -> None:
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text('{"text": "x"}\n')
    mix = [
        {"dataset": "things", "weight": 0.5},
        {"dataset": "a.jsonl", "weight": 0.3},
        {"dataset": "b.jsonl", "weight": 0.1},
    ]
    with caplog.at_level(logging.WARNING):
        report = download(recipe(*mix, allow_missing=True))
    assert report.missing == ["things"]
    assert report.weights == pytest.approx({"a.jsonl": 0.75, "b.jsonl": 0.25})
    assert "continuing without things; the mix is now a.jsonl 75.0%, b.jsonl 25.0%" in caplog.text
    assert report_table(report).row_count == 3
    with pytest.raises(UserError, match="missing: things"):
        download(recipe("things", allow_missing=True))


def test_a_disk_that_is_too_small_is_refused_before_the_first_byte(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(".")._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(CheckRefused, match=r"needs 0\.0 GB and 1 GB to spare, but the disk of .* has 0\.0 GB free"):
        download(recipe("things"))
    assert not any(request.startswith("GET data") for request in hub.requests)


def test_evaluation_sets_are_fetched_too_but_have_no_share(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    report = download(recipe("a.jsonl", decontaminate={"against": ["things:meta"]}))
    assert [(s.dataset, s.use, s.status) for s in report.sources] == [
        ("a.jsonl", "mix", "here"),
        ("things:meta", "evaluation", "downloaded"),
    ]
    assert report.weights == {"a.jsonl": 1.0}


def book(hub: FakeHub, directory: Path, content: bytes) -> Recipe:
    """A data set of one file by address, of which each line is a text."""
    hub.files["old.jsonl"] = content
    url = f"{hub.url}/datasets/org/things/resolve/{COMMIT}/old.jsonl"
    write_card(directory, "book", f"title: t\nurls: {{old.jsonl: '{url}'}}\nlicence: public domain\nadapter: text\n")
    return recipe("book")


@pytest.mark.fault("a data server breaks off", "download, in mid-stream", "every byte, each asked for once", times=2)
def test_a_file_by_address_is_resumed_in_the_same_run(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(hub_module, "TIMEOUT", 0.5)
    lines = b"".join(b'{"text": "%d"}\n' % number for number in range(3000))
    wanted = book(hub, tmp_path, lines)
    hub.cut_after["old.jsonl"] = 10_000
    hub.silent_after["old.jsonl"] = 25_000
    assert download(wanted).sources[0].status == "downloaded"
    assert texts(locate(Source(dataset="book"), Data())) == [str(number) for number in range(3000)]
    assert hub.ranges == ["bytes=10000-", "bytes=25000-"]


@pytest.mark.fault("a data server is away", "download", "what is here; the same command goes on", times=3)
def test_a_server_that_stays_away_is_one_sentence_and_the_next_run_goes_on(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "PAUSES", ())
    wanted = book(hub, tmp_path, b'{"text": "old"}\n')
    hub.cut_after["old.jsonl"] = 6
    with pytest.raises(UserError, match=r"missing: book; .*broke off"):
        download(wanted)
    assert download(wanted).sources[0].status == "downloaded"
    assert hub.ranges == ["bytes=6-"] and texts(locate(Source(dataset="book"), Data())) == ["old"]
    write_card(tmp_path, "book", f"title: t\nurls: {{gone.jsonl: '{hub.url}/gone'}}\nlicence: x\nadapter: text\n")
    with pytest.raises(UserError, match="gone answered 404"):
        download(recipe("book"))


@pytest.mark.fault("a data server is busy", "download, 503", "what is here")
@pytest.mark.parametrize(("status", "kept"), [(503, True), (416, False)])
def test_a_busy_server_costs_nothing_that_is_here(hub: FakeHub, tmp_path: Path, status: int, kept: bool) -> None:
    target = tmp_path / "book.txt"
    partial = tmp_path / ".book.txt.partial"
    partial.write_bytes(b"half of")
    with pytest.raises(UserError, match=str(status)):
        hub_module.fetch_url(f"{hub.url}/status/{status}", target)
    assert partial.is_file() == kept and not target.exists()


def test_an_evaluation_set_may_not_be_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Otherwise `allow_missing` would train on what the model is scored on, and nobody would see it."""
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    wanted = recipe("a.jsonl", allow_missing=True, decontaminate={"against": ["things:meta"]})
    with pytest.raises(UserError, match="missing: things:meta"):
        download(wanted)
    with pytest.raises(MissingData, match=r"or take it out of data\.decontaminate\.against"):
        open_evaluation(wanted.data)


def test_names_and_globs_choose_as_paths_do() -> None:
    names = ["data/train-0.parquet", "data/train-1.parquet", "data/x/train-2.parquet", "train.jsonl"]
    assert choose_files(names, ["main/*.parquet", "data/train-*.parquet"]) == names[:2]
    assert choose_files(names, ["*.jsonl"]) == ["train.jsonl"]
    assert choose_files(names, ["*.csv"]) == []


# -- local files and mirrors ----------------------------------------------------------------------------------------


def test_a_mirror_goes_before_the_hub(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    (mirror / "org/things").mkdir(parents=True)
    (mirror / "org/things/old.jsonl").write_bytes(FILES["old.jsonl"])
    data = Data(hub_mirror=str(mirror))
    assert texts(locate(Source(dataset="things"), data)) == ["old"]
    with pytest.raises(
        MissingData, match=r"data set things \(org/things: meta.json\) is not in .*mirror and the Hub's cache"
    ):
        locate(Source(dataset="things", split="meta"), data)
    with pytest.raises(UserError, match="no split 'tests'; it has: train, meta"):
        locate(Source(dataset="things", split="tests"), data)
    with pytest.raises(UserError, match=r"data\.hub_mirror: there is no directory nowhere"):
        locate(Source(dataset="things"), Data(hub_mirror="nowhere"))


def test_local_paths_directories_and_globs(tmp_path: Path) -> None:
    for name in ("d/b.jsonl", "d/a.parquet", "d/.hidden.jsonl", "d/picture.png", "d/deep/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")

    def names(pattern: str) -> list[str]:
        return [path.name for path in locate(Source(dataset=pattern), Data())]

    assert names("d") == ["a.parquet", "b.jsonl", "c.txt"]
    assert names("d/*.jsonl") == ["b.jsonl"] and names(str(tmp_path / "d" / "**" / "*.txt")) == ["c.txt"]
    with pytest.raises(MissingData, match=r"there is no file d/x\*\.jsonl"):
        names("d/x*.jsonl")
    with pytest.raises(MissingData, match=r"no file or folder meta/llama here, and the data set of this name"):
        names("meta/llama")
    with pytest.raises(UserError, match=r"no data set 'wildchet'; did you mean 'wildchat'"):
        names("wildchet")


def test_a_set_that_is_off_says_why_and_can_be_switched_on() -> None:
    with pytest.raises(UserError, match=r"skein is off: it has no licence.*set `enabled: true`"):
        locate(Source(dataset="skein"), Data())
    with pytest.raises(MissingData):
        locate(Source(dataset="skein", enabled=True), Data())
    with pytest.raises(UserError, match=r"toolbench is off: .*; use toucan or glaive_fc instead$"):
        locate(Source(dataset="toolbench", enabled=True), Data())
    with pytest.raises(UserError, match=r"things has `enabled: false` in data\.mix"):
        locate(Source(dataset="things", enabled=False), Data())


def test_a_split_that_benchmarks_score_is_not_trained_on(tmp_path: Path) -> None:
    (tmp_path / "mirror" / "ChilleD" / "SVAMP").mkdir(parents=True)
    shutil.copy(Path(__file__).parents[1] / "fixtures" / "rows" / "svamp.jsonl", tmp_path / "mirror/ChilleD/SVAMP/t")
    (tmp_path / "mirror/ChilleD/SVAMP/t").rename(tmp_path / "mirror/ChilleD/SVAMP/test.json")
    data = Data(hub_mirror="mirror", mix=[Source(dataset="svamp")])
    for refuse in (lambda: open_sources(data), lambda: download(Recipe(name="r", data=data))):
        with pytest.raises(UserError, match=r"split 'test' of svamp.*set `split: train`, or set `enabled: true`"):
            refuse()
    assert open_sources(data.model_copy(update={"mix": [Source(dataset="svamp", enabled=True)]}))[0]
    assert open_evaluation(Data(hub_mirror="mirror", decontaminate={"against": ["svamp:test"]})), "against them it is"


def test_a_set_that_is_off_is_left_out_like_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("some text")
    mix = [Source(dataset="asdiv"), Source(dataset="own.txt")]
    with pytest.raises(UserError, match="asdiv is off: its licence"):
        open_sources(Data(mix=mix))
    opened, missing = open_sources(Data(mix=mix, allow_missing=True))
    assert [source.name for source in opened] == ["own.txt"] and missing == ["asdiv"]
    assert download(Recipe(name="r", data=Data(mix=mix, allow_missing=True))).missing == ["asdiv"]


def test_a_repository_with_only_a_script_gives_its_converted_rows(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files = {"things.py": b"raise SystemExit"}
    hub.converted = {"default/train/0000.jsonl": b'{"text": "converted"}\n'}
    write_card(tmp_path, "things", CARD.replace('"old.jsonl"', '"old.jsonl", "default/train/*.jsonl"'))
    assert download(recipe("things")).sources[0].status == "downloaded"
    (file,) = locate(Source(dataset="things"), Data())
    assert file.read_text() == '{"text": "converted"}\n'
    hub.close()
    assert download(recipe("things")).sources[0].status == "here", "and the record has the commit"


# -- original files, where they are ---------------------------------------------------------------------------------


BESIDE = Path(__file__).resolve().parents[4] / "shared" / "data"
ORIGINALS = Path(os.environ.get("AGENTFORGE_TEST_DATA", BESIDE))


@pytest.mark.skipif(not ORIGINALS.is_dir(), reason="AGENTFORGE_TEST_DATA names no directory with gsm8k_train.jsonl ...")
@pytest.mark.parametrize(
    ("entry", "repository", "file", "rows"),
    [
        ("gsm8k:train", "openai/gsm8k", "gsm8k_train.jsonl", 7473),
        ("gsm8k:test", "openai/gsm8k", "gsm8k_test.jsonl", 1319),
        ("svamp", "ChilleD/SVAMP", "svamp.json", 1000),
        ("mbpp:train", "google-research-datasets/mbpp", "mbpp.jsonl", 374),
        ("mbpp:test", "google-research-datasets/mbpp", "mbpp.jsonl", 500),
        ("asdiv", "EleutherAI/asdiv", "asdiv.xml", 2305),
    ],
)
def test_original_files_through_a_mirror(tmp_path: Path, entry: str, repository: str, file: str, rows: int) -> None:
    (tmp_path / "mirror" / repository).mkdir(parents=True)
    (tmp_path / "mirror" / repository / file).symlink_to(ORIGINALS / file)
    dataset, _, split = entry.partition(":")
    card, source = load_card(dataset), Source(dataset=dataset, split=split or None, enabled=True)
    counts = ReadCounts()
    adapter, options = get_adapter(str(card.adapter)), SourceOptions(split=source.split or card.default_split)
    files = locate(source, Data(hub_mirror=str(tmp_path / "mirror")))
    made = [adapter(raw, options) for path in files for raw in read_rows(path, counts)]
    kept = [row for row in made if isinstance(row, dict)]
    assert len(kept) == rows and counts.bad == 0
    assert all(row["messages"][-1]["content"] for row in kept)
    if dataset != "mbpp":
        assert all("#### " in row["messages"][-1]["content"] for row in kept)


def test_reports_are_json(hub: FakeHub) -> None:
    from dataclasses import asdict

    assert json.loads(json.dumps(asdict(download(recipe("things")))))["sources"][0]["status"] == "downloaded"
