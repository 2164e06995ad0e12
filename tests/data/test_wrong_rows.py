"""Rows and files that are wrong in some way: each is named with its reason, none gives a traceback, none is silent."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from agentforge.artifacts import read_manifest
from agentforge.cli import main
from agentforge.data.prepare_table import summary_table
from tests.data.small_tokenizers import chatml_tokenizer

ASK = {"role": "user", "content": "Which way is it to the old mill?"}
CALL = {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}


def said(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def chat(*turns: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [ASK, *turns], **more}


def called(**changes: Any) -> dict[str, Any]:
    return said("", tool_calls=[CALL | changes])


# A row in a file of good ones, and what is said of it. Text is a line as it is.
COUNTED: dict[str, tuple[Any, str]] = {
    "no answer": ({"messages": [ASK]}, "no assistant turn"),
    "no turn": ({"messages": []}, "no assistant turn"),
    "turns of null": ({"messages": None}, "no conversation"),
    "turns as a number": ({"messages": 7}, "no conversation"),
    "turns as broken text": ({"messages": "[{'role': "}, "messages are no JSON"),
    "an unknown role": (chat({"role": "referee", "content": "Stop"}, said("Left.")), "unknown role"),
    "no role": (chat({"content": "Left."}), "unknown role"),
    "a role of null": (chat({"role": None, "content": "Left."}), "unknown role"),
    "content of null": (chat(said(None)), "empty turn"),
    "content of spaces": (chat(said("   \n")), "empty turn"),
    "content as a number": (chat(said(3)), "content is no text"),
    "an image": (chat(said([{"type": "image_url", "image_url": {"url": "x"}}])), "image, audio or video"),
    "a question with an image": (
        {"messages": [{"role": "user", "content": [{"type": "image", "image": "x"}]}, said("A cat.")]},
        "image, audio or video",
    ),
    "audio": (chat(said([{"type": "input_audio", "input_audio": {}}])), "image, audio or video"),
    "a late system turn": (
        chat(said("Left."), {"role": "system", "content": "Obey"}, said("Right.")),
        "late system turn",
    ),
    "an open thought": (chat(said("<think>Hm, the mill")), "<think> without </think>"),
    "a result without a call": (chat({"role": "tool", "content": "3"}, said("Left.")), "tool result without call"),
    "a call without a result": (
        chat(
            said("", tool_calls=[CALL, CALL | {"id": "b"}]),
            {"role": "tool", "tool_call_id": "b", "content": "3"},
            said("Left."),
        ),
        "call without result",
    ),
    "a result of another call": (
        chat(called(), {"role": "tool", "tool_call_id": "z", "content": "3"}, said("Left.")),
        "tool result of an unknown call",
    ),
    "arguments that are no JSON": (
        chat(called(function={"name": "look", "arguments": "{at: "}), {"role": "tool", "content": "3"}, said("Left.")),
        "tool call is no JSON",
    ),
    "a call without a name": (
        chat(called(function={"arguments": "{}"}), {"role": "tool", "content": "3"}, said("Left.")),
        "tool call is no JSON",
    ),
    "tools as broken text": (chat(said("Left."), tools="[{"), "tools are no JSON"),
    "tools as a number": (chat(said("Left."), tools=3), "tools are no JSON"),
    "a weight of 2": (chat(said("Left.", weight=2)), "weight is neither 0 nor 1"),
    "no weight that counts": (chat(said("Left.", weight=0)), "no trained turn"),
    "half a surrogate": (
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "\\ud800"}]}',
        "half surrogate pairs",
    ),
    "a line that is no JSON": ('{"messages": [', "not JSON"),
    "a line that is a list": ("[1, 2]", "object"),
    "a line that is a number": ("42", "object"),
    "a line of NaN": ('{"messages": NaN}', "no conversation"),
    "a key that nobody reads": (chat(said("Left."), mood="sunny"), "mood"),
    "a key of a turn that nobody reads": (chat(said("Left.", mood="sunny")), "messages[].mood"),
    "a user at the end": (chat(said("Left."), {"role": "user", "content": "And then?"}), "after the last answer"),
    "an assistant at the start": ({"messages": [said("Hello."), ASK, said("Left.")]}, "before the first question"),
    "another copy": (chat(said("Good morning.")), "exact duplicate"),
    "another column": ({"question": "Which?", "answer": "Left."}, "no conversation"),
    "an empty row": ({}, "no conversation"),
    "words again and again": (chat(said("over and over " * 200)), "repetition"),
    "deep in itself": ('{"messages": ' + "[" * 3000 + "]" * 3000 + "}", "nested too deeply"),
    "a row longer than data.max_length": (
        chat(said("left or right " + " ".join(map(str, range(900))))),
        "rows were cut",
    ),
}
GOOD = [chat(said(f"Turn left at house {number}.")) for number in range(3)]

# A whole file, and the sentence that refuses it.
REFUSED: dict[str, tuple[str, bytes, str]] = {
    "empty": ("rows.jsonl", b"", "no readable row"),
    "nothing but lines": ("rows.jsonl", b"\n\n\n", "no readable row"),
    "UTF-16": ("rows.jsonl", json.dumps(GOOD[0]).encode("utf-16"), "UTF-16"),
    "a page": ("rows.jsonl", b"<!DOCTYPE html><html><body>404</body></html>", "HTML page"),
    "an LFS pointer": ("rows.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 3\n", "LFS"),
    "gzip under another name": ("rows.jsonl", gzip.compress(b'{"text": "a"}\n'), "gzip"),
    "half a gzip": ("rows.jsonl.gz", gzip.compress(json.dumps(GOOD).encode() * 50)[:60], "damaged"),
    "half an array": ("rows.json", json.dumps(GOOD).encode()[:-30], "cut off"),
    "no Parquet": ("rows.parquet", b"PAR1 is what I say", "Parquet"),
    "no Arrow": ("rows.arrow", b"ARROW1 is what I say", "rows.arrow"),
    "another kind": ("rows.docx", b"PK\x03\x04", "rows.docx"),
    "only numbers": ("rows.jsonl", b"1\n2\n3\n", "no readable row"),
    "columns of nobody": ("rows.jsonl", b'{"foo": 1, "bar": 2}\n', "no adapter fits"),
    "a broken CSV": ("rows.csv", b'question,answer\n"a,b\n', "rows.csv"),
    "a CSV of nobody": ("rows.csv", b"foo,bar\n1,2\n", "no adapter fits"),
    "only unanswered questions": ("rows.jsonl", json.dumps({"messages": [ASK]}).encode(), "no assistant turn"),
    "NUL bytes": ("rows.jsonl", b'{"text": "a"}\x00\n', "NUL"),
    "latin-1": ("rows.jsonl", '{"question": "gr\u00fcn", "answer": "\u00e9"}'.encode("latin-1"), "UTF-8"),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base") / "tokenizer"
    chatml_tokenizer().save_pretrained(directory)
    return directory


def recipe(directory: Path, tokenizer: Path, sources: list[dict[str, Any]]) -> str:
    data = {
        "max_length": 256, "mix": sources, "eval_fraction": 0, "workers": 1, "minhash": {"enabled": False},
        "max_bad_rows": 0.5, "overflow": "truncate",
    }  # fmt: skip
    raw = {"name": "rows", "output_dir": str(directory / "runs"), "model": {"tokenizer": str(tokenizer)}, "data": data}
    (directory / "rows.yaml").write_text(json.dumps(raw), encoding="utf-8")
    return str(directory / "rows.yaml")


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> dict[str, Any]:
    """What `prepare` has counted of each file, from one run over all of them."""
    directory = tmp_path_factory.mktemp("counted")
    sources = []
    for number, (name, (row, _)) in enumerate(COUNTED.items()):
        file = directory / f"{name.replace(' ', '_')}.jsonl"
        good = [chat(said(f"Turn left at house {number}.")), chat(said(f"Then go on to house {number}."))]
        good += [chat(said("Good morning."))] if name == "another copy" else []
        lines = [json.dumps(one) for one in good] + [row if isinstance(row, str) else json.dumps(row)]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        sources.append({"dataset": str(file), "adapter": "messages"})
    path = recipe(directory, tokenizer, sources)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["agentforge", "prepare", path])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0
    from rich.console import Console

    made = directory / "runs" / "rows-v0.1.0-data"
    with Console(width=100_000, record=True, file=open("/dev/null", "w", encoding="utf-8")) as console:
        console.print(summary_table(made))
    return {"sources": read_manifest(made)["metrics"]["sources"], "printed": console.export_text()}


@pytest.mark.parametrize("name", COUNTED)
def test_a_wrong_row_is_counted_under_its_reason(counted: dict[str, Any], name: str) -> None:
    word = COUNTED[name][1]
    ours = [f"/{name.replace(' ', '_')}.jsonl" in source for source in counted["sources"]]
    [told] = [entry for entry, mine in zip(counted["sources"].values(), ours, strict=True) if mine]
    lines = [line for line in counted["printed"].splitlines() if f"/{name.replace(' ', '_')}.jsonl" in line]
    assert any(word in line for line in lines), (told, lines)


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_file_is_refused_in_one_sentence(
    name: str, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, content, word = REFUSED[name]
    (tmp_path / file).write_bytes(content)
    path = recipe(tmp_path, tokenizer, [{"dataset": str(tmp_path / file)}])
    monkeypatch.setattr(sys, "argv", ["agentforge", "prepare", path])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code in (2, 3) and "Traceback" not in said
    assert word in said.splitlines()[-1] and file in said.splitlines()[-1]
    assert not list(tmp_path.rglob("*-data"))
