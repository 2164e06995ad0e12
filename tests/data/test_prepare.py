"""`prepare` from files to Arrow: what goes in, what comes out, and that nothing but recipe and data decides it."""

import errno
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentforge.artifacts import read_manifest
from agentforge.data.disk_buffer import DiskBuffer
from agentforge.data.prepare import load_prepared, prepare
from agentforge.data.tokenizer import load_tokenizer, train_tokenizer
from agentforge.errors import CheckRefused, UserError
from agentforge.recipe.schema import Data, Recipe

WORDS = [f"{a}{b}{c}" for a in "bdfgkl" for b in "aeiou" for c in ("n", "r", "st", "ck")]


def sentence(rng, low=4, high=14):
    return " ".join(rng.choices(WORDS, k=rng.randint(low, high)))


def conversation(rng, turns=1):
    messages = [{"role": "system", "content": "You are AJ."}]
    for _ in range(turns):
        messages += [{"role": "user", "content": sentence(rng) + "?"}, {"role": "assistant", "content": sentence(rng)}]
    return {"messages": messages}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory):
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([sentence(rng) for _ in range(300)], 420).save_pretrained(path)
    return str(path)


@pytest.fixture
def make(tmp_path, tokenizer_path):
    """Prepare a mix; return the artefact's path and the metrics."""

    def run(mix, name="t", replace=False, method="sft", seed=42, **data):
        data = {"max_length": 256, "workers": 1, "eval_fraction": 0.1, **data}
        recipe = Recipe.model_validate(
            {
                "name": name,
                "seed": seed,
                "output_dir": str(tmp_path / "runs"),
                "model": {"tokenizer": tokenizer_path},
                "data": {"mix": mix, **data},
                "train": {"method": method},
            }
        )
        path = prepare(recipe, replace)
        return path, read_manifest(path)["metrics"]

    return run


@pytest.fixture
def rows_file(tmp_path):
    rng = random.Random(1)
    return write(tmp_path / "rows.jsonl", [conversation(rng, turns=1 + number % 3) for number in range(200)])


def decoded(path, split="train"):
    tokenizer = load_tokenizer(path / "tokenizer")
    return [tokenizer.decode(row["input_ids"]) for row in load_prepared(path)[split]]


def test_rows_become_tokens_with_the_answers_trained(make, tmp_path):
    call = {"type": "function", "function": {"name": "bash", "arguments": {"command": "ls"}}}
    messages = [
        {"role": "user", "content": "List\r\nfiles\x00"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "bash", "content": "a.txt"},
        {"role": "assistant", "content": "One file."},
    ]
    source = write(tmp_path / "one.jsonl", [{"messages": messages}])
    path, metrics = make([{"dataset": source, "system": "You are AJ."}], eval_fraction=0)
    row = load_prepared(path)["train"][0]
    tokenizer = load_tokenizer(path / "tokenizer")
    text = tokenizer.decode(row["input_ids"])
    trained = tokenizer.decode([i for i, m in zip(row["input_ids"], row["assistant_masks"], strict=True) if m])
    assert text.startswith("<|im_start|>system\nYou are AJ.<|im_end|>\n<|im_start|>user\nList\nfiles<|im_end|>")
    assert (
        "<tool_call>" in trained and '"command": "ls"' in trained and trained.rstrip().endswith("One file.<|im_end|>")
    )
    assert "a.txt" not in trained
    assert row["source"] == source
    assert metrics["train"]["trained_tokens"] == sum(row["assistant_masks"])
    assert len(load_prepared(path)["eval"]) == 0


def test_files_do_not_depend_on_the_number_of_processes(make, rows_file, monkeypatch):
    monkeypatch.setattr("agentforge.data.prepare.CHUNK_ROWS", 17)
    contents = {
        read_manifest(make([{"dataset": rows_file, "weight": 1}], name=f"w{workers}", workers=workers)[0])["content"]
        for workers in (1, 2, 3)
    }
    assert len(contents) == 1


def test_files_do_not_depend_on_the_size_of_chunks(make, rows_file, monkeypatch):
    one = read_manifest(make([{"dataset": rows_file}], name="large")[0])["content"]
    monkeypatch.setattr("agentforge.data.prepare.CHUNK_ROWS", 7)
    assert read_manifest(make([{"dataset": rows_file}], name="small")[0])["content"] == one


def test_second_run_does_nothing_and_another_recipe_is_refused(make, rows_file):
    path, metrics = make([{"dataset": rows_file}])
    before = {file: file.stat().st_mtime_ns for file in path.iterdir()}
    assert make([{"dataset": rows_file}], workers=2) == (path, metrics)
    assert {file: file.stat().st_mtime_ns for file in path.iterdir()} == before
    with pytest.raises(CheckRefused, match="max_length: 256 -> 128"):
        make([{"dataset": rows_file}], max_length=128)
    make([{"dataset": rows_file}], max_length=128, replace=True)
    Path(rows_file).write_text(Path(rows_file).read_text() * 2)
    with pytest.raises(CheckRefused, match=r"rows\.jsonl has changed"):
        make([{"dataset": rows_file}], max_length=128)


def test_every_row_that_goes_in_is_accounted_for(make, tmp_path):
    rng = random.Random(2)
    good = [conversation(rng, turns=3) for _ in range(60)]
    long_answer = [{"role": "user", "content": "q?"}, {"role": "assistant", "content": sentence(rng, 60, 60)}]
    edited = [*long_answer[:1], {"role": "assistant", "content": long_answer[1]["content"] + " more"}]
    shouted = [{**message, "content": message["content"].upper() + "  "} for message in long_answer]
    lines = [json.dumps(row) for row in good]
    lines += [json.dumps({"messages": turns}) for turns in (long_answer, shouted, edited)]
    lines += [json.dumps({"messages": [{"role": "user", "content": "alone"}]}), json.dumps({"text": "no conversation"})]
    lines += [json.dumps({"messages": [*long_answer[:1], {"role": "assistant", "content": "spam " * 200}]}), "{broken"]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    path, metrics = make([{"dataset": str(tmp_path / "rows.jsonl")}], max_bad_rows=0.5)
    source = next(iter(metrics["sources"].values()))
    assert source["rows_read"] == 66 and source["rows_unreadable"] == 1
    rejected = source["rows_rejected"]
    assert rejected["exact duplicate"] == rejected["near duplicate"] == rejected["repetition"] == 1
    assert source["rows_read"] == source["rows_kept"] + sum(rejected.values())
    assert source["rows_kept"] == 61 == sum(metrics["row_tokens"].values())
    dropped = source.get("rows_without_trained_token", 0)
    assert metrics["train"]["rows"] + metrics["eval"]["rows"] + dropped == 61
    data = load_prepared(path)
    assert [len(data[split]) for split in ("train", "eval")] == [metrics[split]["rows"] for split in ("train", "eval")]
    assert metrics["train"]["tokens"] == sum(len(row["input_ids"]) for row in data["train"])


def test_adding_a_source_moves_no_row_between_train_and_eval(make, rows_file, tmp_path):
    rng = random.Random(3)
    other = write(tmp_path / "other.jsonl", [conversation(rng) for _ in range(150)])
    alone, _ = make([{"dataset": rows_file}], name="alone", size=1000)
    both, _ = make([{"dataset": other}, {"dataset": rows_file}], name="both", size=2000, seed=7)
    for split, opposite in (("train", "eval"), ("eval", "train")):
        assert set(decoded(alone, split)) <= set(decoded(both, split))
        assert not set(decoded(alone, split)) & set(decoded(both, opposite))


def test_repeats_stay_in_train_and_equal_prompts_on_one_side(make, tmp_path):
    rng = random.Random(4)
    rows = []
    for number in range(300):
        row = conversation(rng)
        row["messages"][1]["content"] = f"Question {number % 100}?"
        rows.append(row)
    path, metrics = make([{"dataset": write(tmp_path / "r.jsonl", rows)}], size=800, eval_fraction=0.3)
    train, held_out = decoded(path, "train"), decoded(path, "eval")
    assert metrics["train"]["rows"] == 800 and len(set(train)) == metrics["train"]["unique_rows"]
    assert len(set(held_out)) == len(held_out) > 30
    asked = [{text.split("<|im_end|>")[1] for text in side} for side in (train, held_out)]
    assert not asked[0] & asked[1]


def test_split_key_keeps_paraphrases_together(make, tmp_path):
    rng = random.Random(5)
    rows = [{**conversation(rng), "original": f"o{number % 40}"} for number in range(400)]
    keys = {row["messages"][1]["content"]: row["original"] for row in rows}
    mix = [{"dataset": write(tmp_path / "r.jsonl", rows), "split_key": "original"}]
    path, _ = make(mix, eval_fraction=0.3)
    sides = []
    for split in ("train", "eval"):
        asked = [text.split("user\n")[1].split("<|im_end|>")[0] for text in decoded(path, split)]
        sides.append({keys[prompt] for prompt in asked})
    assert sides[0] and sides[1] and not sides[0] & sides[1]
    with pytest.raises(UserError, match="no column 'orginal' to split by; did you mean 'original'"):
        make([{**mix[0], "split_key": "orginal"}], name="typo")


def test_a_small_source_is_capped_and_the_shortfall_is_told(make, rows_file, tmp_path, caplog):
    rng = random.Random(6)
    small = write(tmp_path / "small.jsonl", [conversation(rng) for _ in range(10)])
    mix = [{"dataset": rows_file, "weight": 0.9}, {"dataset": small, "weight": 0.1}]
    with caplog.at_level(logging.WARNING):
        _, metrics = make(mix, size=600, eval_fraction=0)
    source = metrics["sources"][small]
    assert source["capped"] and source["train_rows"] == 40 and source["epochs"] == 4
    assert (source["weight_asked"], source["weight_got"]) == (0.1, round(40 / 600, 6))
    assert metrics["sources"][rows_file]["train_rows"] == 560
    assert "max_repeats 4" in caplog.text


def test_weights_in_tokens(make, tmp_path):
    rng = random.Random(7)
    short = write(tmp_path / "short.jsonl", [conversation(rng) for _ in range(120)])
    long = write(tmp_path / "long.jsonl", [conversation(rng, turns=5) for _ in range(120)])
    mix = [{"dataset": short}, {"dataset": long}]
    _, metrics = make(mix, weights="tokens", size=8000, eval_fraction=0, max_length=1024)
    for source in metrics["sources"].values():
        assert source["train_tokens"] == pytest.approx(4000, abs=260)


def test_contaminated_rows_are_dropped_and_counted(make, tmp_path):
    rng = random.Random(8)
    rows = [conversation(rng, turns=3) for _ in range(40)]
    stolen = sentence(rng, 20, 20)
    rows[3]["messages"][-1]["content"] += f" {stolen[:-1]}"
    exam = [{"messages": [{"role": "user", "content": stolen}, {"role": "assistant", "content": "42"}]}]
    against = [write(tmp_path / "exam.jsonl", exam)]
    mix = [{"dataset": write(tmp_path / "r.jsonl", rows)}]
    path, metrics = make(mix, decontaminate={"against": against}, max_length=1024)
    assert metrics["sources"][mix[0]["dataset"]]["rows_rejected"] == {"contaminated": 1}
    assert metrics["decontaminated_against"]["rows"] == 1
    assert not any(stolen[:40] in text for split in ("train", "eval") for text in decoded(path, split))


def test_an_evaluation_row_that_cannot_be_read_stops_the_run(make, tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "some words that are here to be trained on"}\n')
    (tmp_path / "eval.jsonl").write_text('{"text": "a question"}\n{"text": broken\n')
    with pytest.raises(CheckRefused, match=r"eval.jsonl.*cannot be read.*eval.jsonl:2.*correct the file$"):
        make([{"dataset": str(tmp_path / "train.jsonl")}], decontaminate={"against": [str(tmp_path / "eval.jsonl")]})


@pytest.mark.parametrize("overflow", ["truncate", "split", "drop"])
def test_overflow_is_counted(make, tmp_path, overflow):
    rng = random.Random(9)
    rows = [conversation(rng) for _ in range(20)] + [conversation(rng, turns=12) for _ in range(5)]
    wordy = [{"role": "user", "content": sentence(rng, 300, 300)}, {"role": "assistant", "content": "Yes indeed."}]
    mix = [{"dataset": write(tmp_path / "r.jsonl", [*rows, {"messages": wordy}])}]
    path, metrics = make(mix, overflow=overflow, eval_fraction=0)
    source = metrics["sources"][mix[0]["dataset"]]
    data = load_prepared(path)["train"]
    assert max(map(len, data["input_ids"])) <= 256
    assert all(any(mask[1:]) for mask in data["assistant_masks"])
    if overflow == "truncate":
        assert source["rows_truncated"] == 6 and source["rows_without_trained_token"] == 1 and len(data) == 25
        assert source["tokens_truncated"] > 0
    elif overflow == "split":
        assert source["rows_split"] == 6 and len(data) > 26 and source["tokens_in_untrained_pieces"] >= 256
    else:
        assert source["rows_too_long"] == 6 and len(data) == 20


def test_pretraining_reads_prose_without_template_markers(make, tmp_path):
    call = {"type": "function", "function": {"name": "bash", "arguments": {"command": "docker ps"}}}
    messages = [
        {"role": "system", "content": "You are AJ."},
        {"role": "user", "content": "List running containers"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "bash", "content": "CONTAINER ID"},
        {"role": "assistant", "content": "None runs."},
    ]
    chat = write(tmp_path / "chat.jsonl", [{"messages": messages}])
    path, _ = make([{"dataset": chat}], method="pretrain", eval_fraction=0)
    assert decoded(path) == ["List running containers\n\ndocker ps\n\nCONTAINER ID\n\nNone runs.<|endoftext|>"]
    assert set(load_prepared(path)["train"][0]["assistant_masks"]) == {1}


def test_a_book_is_cut_into_blocks_and_nothing_of_it_is_lost(make, tmp_path):
    book = tmp_path / "book.txt"
    book.write_text("\n\n".join(sentence(random.Random(number), 30, 60) for number in range(500)))
    path, metrics = make([{"dataset": str(book)}], method="pretrain", max_length=64, eval_fraction=0)
    assert metrics["sources"][str(book)]["rows_kept"] > 1
    letters = sorted("".join(decoded(path)).replace("<|endoftext|>", ""))
    assert "".join(letters).split() == "".join(sorted(book.read_text())).split()
    assert max(map(len, load_prepared(path)["train"]["input_ids"])) == 64


def test_an_own_tokenizer_is_trained_alike_and_saved(tmp_path, rows_file):
    def run(name):
        recipe = Recipe.model_validate(
            {
                "name": name,
                "output_dir": str(tmp_path / "runs"),
                "model": {"tokenizer": {"vocab_size": 400, "max_characters": 10_000}},
                "data": {"mix": [{"dataset": rows_file}], "workers": 1},
            }
        )
        return prepare(recipe)

    first, second = run("a"), run("b")
    assert read_manifest(first)["content"] == read_manifest(second)["content"]
    tokenizer = load_tokenizer(first / "tokenizer")
    assert len(tokenizer) <= 400 and tokenizer.chat_template


@pytest.mark.parametrize(
    ("change", "sentence_part"),
    [
        ({"mix": []}, "data.mix is empty"),
        ({"mix": [{"dataset": "wildchatt"}]}, "there is no data set 'wildchatt'"),
        ({"mix": [{"dataset": "nowhere/*.jsonl"}]}, "nowhere/*.jsonl"),
        ({"filters": {"min_characters": 10_000}}, "all 200 rows were rejected (too short: 200 (first: rows.jsonl:1))"),
        ({"filters": {"where": {"toxic": False}}}, "where toxic: 200"),
        ({"overflow": "drop", "max_length": 16}, "rows too long: 200"),
        ({"tools": "nonsense"}, "nonsense"),
    ],
)
def test_refusals_are_one_sentence_and_leave_nothing(make, rows_file, tmp_path, change, sentence_part):
    change = {"mix": [{"dataset": rows_file}], **change}
    with pytest.raises(UserError) as refused:
        make(change.pop("mix"), **change)
    assert sentence_part in str(refused.value) and "\n" not in str(refused.value)
    assert not list((tmp_path / "runs").glob("[!.]*")) if (tmp_path / "runs").exists() else True
    assert not list((tmp_path / "runs").glob(".*.partial"))


def test_an_empty_file_is_refused(make, rows_file, tmp_path):
    empty = {"dataset": write(tmp_path / "empty.jsonl", []), "adapter": "messages"}
    with pytest.raises(CheckRefused, match=r"empty\.jsonl: it has no rows"):
        make([empty])
    with pytest.raises(CheckRefused, match=r"empty\.jsonl: it has no rows"):
        make([{"dataset": rows_file}, empty])


def test_too_many_unreadable_rows_are_refused(make, rows_file):
    with open(rows_file, "a") as file:
        file.write("{broken\n" * 3)
    with pytest.raises(CheckRefused, match=r"3 of 203 rows \(1\.5%\) cannot be read"):
        make([{"dataset": rows_file}])
    _, metrics = make([{"dataset": rows_file}], max_bad_rows=0.02)
    assert metrics["sources"][rows_file]["rows_unreadable"] == 3


def test_missing_sources_are_left_out_if_allowed(make, rows_file, caplog):
    mix = [{"dataset": rows_file}, {"dataset": "nowhere/x.jsonl", "weight": 3}]
    with pytest.raises(UserError, match="nowhere"):
        make(mix)
    _, metrics = make(mix, allow_missing=True)
    assert metrics["missing"] == ["nowhere/x.jsonl"]
    assert metrics["sources"][rows_file]["weight_got"] == 1
    assert "other sources share its weight" in caplog.text


def test_a_stage_without_its_sources_is_said_or_refused_before_anything_is_read(make, rows_file, caplog):
    mix = [{"dataset": rows_file}, {"dataset": "nowhere/x.jsonl"}]
    stages = [{"name": "first", "until": 1, "sources": [rows_file, "nowhere/x.jsonl"]}, {"name": "then"}]
    path, metrics = make(mix, allow_missing=True, curriculum=stages)
    assert metrics["curriculum_without"] == {"first": ["nowhere/x.jsonl"], "then": ["nowhere/x.jsonl"]}
    assert "stage 'first' goes on with 1 of 2 sources, without nowhere/x.jsonl" in caplog.text
    assert make(mix, allow_missing=True)[0] == path, "stages change no row, so another curriculum has the same data"
    alone = [{"name": "alone", "sources": ["nowhere/x.jsonl"]}]
    with pytest.raises(UserError, match="of stage 'alone' no source is here"):
        make(mix, allow_missing=True, curriculum=alone)


def test_prepared_data_of_another_recipe_are_not_made_again(make, rows_file, tmp_path):
    path, _ = make([{"dataset": rows_file}])
    with pytest.raises(UserError, match=r"this recipe reads .*; prepare the recipe that makes it"):
        make([{"dataset": rows_file}], name="other", prepared=str(path))
    assert Recipe(name="other", data=Data(prepared=str(path))).artifact("data") == path


def test_pretraining_reads_a_benchmark_in_its_scored_form(make, tmp_path):
    rows = [
        {
            "question": f"{name} has {n} pens and buys {n} more. How many?",
            "answer": f"{n}+{n}=<<{n}+{n}={2 * n}>>{2 * n}\n#### {2 * n}",
        }
        for n, name in enumerate(["Ann", "Bob", "Cem", "Dan", "Eva"] * 8, 2)
    ]
    mix = [{"dataset": write(tmp_path / "g.jsonl", rows), "adapter": "gsm8k"}]
    path, _ = make(mix, method="pretrain", minhash={"enabled": False}, eval_fraction=0.0)
    wanted = "Question: Ann has 2 pens and buys 2 more. How many?\nAnswer: 2+2=4\n#### 4"
    assert any(wanted in text for text in decoded(path)), decoded(path)[0]
    path, _ = make(mix, name="chat", minhash={"enabled": False}, eval_fraction=0.0)
    assert any("2+2=<<2+2=4>>4" in text for text in decoded(path)), "a conversation keeps the marks, and no 'Question:'"


def test_a_short_question_of_an_evaluation_set_is_kept_out_of_documents_too(make, tmp_path):
    """Eleven words are no 13-gram: the question is compared as a whole, and a document holds more than the question."""
    rows = [{"question": f"What are {n} and {n}?", "answer": f"#### {2 * n}"} for n in range(1, 41)]
    exam = write(tmp_path / "exam.jsonl", [{"messages": [{"role": "user", "content": "What are 7 and 7?"},
                                                         {"role": "assistant", "content": "14"}]}])  # fmt: skip
    mix = [{"dataset": write(tmp_path / "g.jsonl", rows), "adapter": "gsm8k"}]
    _, metrics = make(mix, method="pretrain", decontaminate={"against": [exam]}, minhash={"enabled": False})
    assert metrics["sources"][mix[0]["dataset"]]["rows_rejected"] == {"contaminated": 1}


def test_too_few_rows_for_eval_are_told(make, tmp_path, caplog):
    make([{"dataset": write(tmp_path / "r.jsonl", [conversation(random.Random(0))])}], eval_fraction=0.001)
    assert "no row was held out for eval" in caplog.text


@pytest.mark.fault("the disk is full", "prepare", "one sentence, nothing half-made")
def test_a_full_disk_is_one_sentence(make, rows_file, tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(DiskBuffer, "append", full)
    with pytest.raises(UserError, match="no space is left"):
        make([{"dataset": rows_file}])
    assert not list((tmp_path / "runs").glob(".*.partial"))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=60), min_size=1, max_size=3), st.integers(1, 300))
def test_whatever_the_sources_all_adds_up(make, tmp_path, questions, size):
    mix = []
    for number, asked in enumerate(questions):
        rows = [conversation(random.Random(question)) for question in asked]
        mix.append({"dataset": write(tmp_path / f"s{number}.jsonl", rows), "weight": number + 1})
    try:
        path, metrics = make(mix, size=size, eval_fraction=0.2, replace=True)
    except CheckRefused as refused:
        assert "no rows are left" in str(refused)
        return
    kept = sum(source["rows_kept"] for source in metrics["sources"].values())
    assert kept == len({question for asked in questions for question in asked})
    assert metrics["train"]["rows"] <= size
    assert not set(decoded(path, "train")) & set(decoded(path, "eval"))
    for source in metrics["sources"].values():
        assert source["epochs"] <= 4 and source["rows_read"] == source["rows_kept"] + sum(
            source["rows_rejected"].values()
        )


@pytest.mark.fault("kill -9", "prepare, in each of its steps", "the same rows", times=3)
def test_kill_9_at_any_moment_then_again_gives_the_same(tmp_path, rows_file, tokenizer_path):
    script = (
        "import sys; from agentforge.data.prepare import prepare; from agentforge.recipe.schema import Recipe;"
        "import agentforge.data.prepare as p; p.CHUNK_ROWS = 4; prepare(Recipe.model_validate_json(sys.argv[1]))"
    )
    body = {
        "output_dir": str(tmp_path / "runs"),
        "model": {"tokenizer": tokenizer_path},
        "data": {"mix": [{"dataset": rows_file}], "workers": 2, "eval_fraction": 0.1},
    }
    undisturbed = read_manifest(prepare(Recipe.model_validate({"name": "whole", **body})))["content"]
    recipe = Recipe.model_validate({"name": "killed", **body})
    partial = tmp_path / "runs" / ".killed-v0.1.0-data.partial"
    for appears in (".rows", "tokenizer", ".ids"):
        process = subprocess.Popen([sys.executable, "-c", script, recipe.model_dump_json()], cwd=os.getcwd())
        while not (partial / appears).exists() and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode in (-signal.SIGKILL, 0)
        if process.returncode:
            assert not recipe.artifact("data").exists()
    assert read_manifest(prepare(recipe))["content"] == undisturbed
    assert not partial.exists()
