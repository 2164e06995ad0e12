"""The command line: exit codes, one sentence for bad input, and a quick start without the heavy libraries."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentforge.entry import quieten_libraries

REPOSITORY = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "transformers", "trl", "datasets", "numpy", "pyarrow")


def run(*words: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agentforge", *words], cwd=cwd, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "ajj"], "there is no recipe 'ajj'; did you mean 'aj'?"),
        (["train", "aj", "--profile", "tinny"], "did you mean 'tiny'?"),
        (["train", "aj", "train.args.learning_rat=1e-4"], "did you mean 'train.args.learning_rate'?"),
        (["train", "aj", "--train.args.learning-rat", "1e-4"], "did you mean 'train.args.learning_rate'?"),
        (["train", "aj", "--train.args.lr_scheduler_type=cosinee"], "did you mean 'cosine'?"),
        (["train", "aj", "train.lora.rr=3"], "rr"),
        (["train", "aj", "data.mix.0.wieght=1"], "did you mean"),
        (["train", "aj", "--profle", "tiny"], "did you mean '--profile'?"),
        (["trian", "aj"], "Did you mean 'train'?"),
        (["prepare", "aj", "data.mix=[{dataset: wildchatt}]", "--profile", "tiny"], "wildchat"),
        (["surgery", "aj"], "the recipe has no `surgery:` section"),
        (
            ["show", "affine/base", "environments.affine:sat={n_vars: [5, 8], unsat_share: 0.3}"],
            "none is unsatisfiable",
        ),
        (["collect", "aj"], "has no environments to collect from"),
        (["train", "aj", "train.method=reward", "train.args={}"], "it must be one of pretrain, sft"),
        (["chat", "aj", "--model", "q5kmm", "--prompt", "hi"], "did you mean 'q5km'?"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(words: list[str], says: str) -> None:
    result = run(*words)
    assert result.returncode == 2, result.stderr
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert not result.stdout


@pytest.mark.parametrize(("level", "code"), [("debug", 0), ("Info", 0), ("loud", 2), ("10", 2)])
def test_the_log_level_is_read_in_any_case_or_refused(level: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTFORGE_LOG", level)
    result = run("show")
    assert result.returncode == code and "Traceback" not in result.stderr
    assert ("it must be one of DEBUG, INFO" in result.stderr) == (code == 2)


def test_transformers_is_quiet_when_a_caller_of_main_had_imported_it(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("transformers")
    monkeypatch.setattr(logger, "level", logging.WARNING)
    quieten_libraries()
    assert not logger.isEnabledFor(logging.WARNING)


def test_what_the_operating_system_refuses_outside_a_stage_is_a_sentence_too(tmp_path: Path) -> None:
    result = run("show", "x" * 300 + "/" + "y" * 300 + ".yaml")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    (tmp_path / "page.html").mkdir()
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "small.yaml").write_text(
        "name: Small\nmodel: {tokenizer: {vocab_size: 400}}\ntrain: {method: pretrain}\n"
        "data: {mix: [{dataset: rows.jsonl}]}\n"
    )
    result = run("preview", "small.yaml", "--html", "page.html", cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert "page.html is a directory where a file is needed" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "rows.jsonl", "small.yaml"]


def test_an_artefact_from_another_recipe_is_not_overwritten(tmp_path: Path) -> None:
    rows = [[{"role": "user", "content": f"question {n}"}, {"role": "assistant", "content": "yes"}] for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    (tmp_path / "small.yaml").write_text(
        "name: Small\nmodel: {tokenizer: {vocab_size: 400}, config: {model_type: qwen3}}\n"
        "data: {mix: [{dataset: rows.jsonl}], eval_fraction: 0, workers: 1, minhash: {enabled: false}}\n"
    )
    first = run("prepare", "small.yaml", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    manifest = (tmp_path / "runs/Small-v0.1.0-data/manifest.json").read_bytes()
    again = run("prepare", "small.yaml", cwd=tmp_path)
    assert again.returncode == 0
    assert (tmp_path / "runs/Small-v0.1.0-data/manifest.json").read_bytes() == manifest
    other = run("prepare", "small.yaml", "data.max_length=64", cwd=tmp_path)
    assert other.returncode == 3
    assert "data.max_length: 2048 -> 64" in other.stderr
    assert (tmp_path / "runs/Small-v0.1.0-data/manifest.json").read_bytes() == manifest


@pytest.mark.parametrize(
    "words", [["--help"], ["show", "aj"], ["show", "--json-schema"], ["plan", "aj"], ["doctor", "aj"]]
)
def test_what_is_asked_before_a_run_needs_no_heavy_library(words: list[str]) -> None:
    program = (
        "import sys\nfrom agentforge.cli import app\n"
        f"try:\n    app({words!r})\n"
        "except BaseException as error:\n    assert getattr(error, 'code', 0) in (0, 3), error\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert result.stdout.splitlines()[-1] == "LOADED []", result.stderr


def test_every_verb_explains_itself() -> None:
    listed = run("--help").stdout
    for verb in ("doctor", "show", "plan", "download", "prepare", "preview", "surgery", "collect", "train", "evaluate"):
        assert verb in listed
    for verb in ("compare", "merge", "gguf", "chat", "serve", "push", "run"):
        assert verb in listed
        assert run(verb, "--help").stdout.startswith("Usage:")


def test_no_line_of_the_help_is_cut_at_80_columns() -> None:
    environment = {**os.environ, "COLUMNS": "80", "TERMINAL_WIDTH": "80"}
    command = [sys.executable, "-m", "agentforge", "--help"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, env=environment)
    assert result.returncode == 0 and "..." not in result.stdout.partition("Commands:")[2]
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_the_version() -> None:
    from agentforge import __version__

    result = run("--version")
    assert result.returncode == 0 and result.stdout == f"agentforge {__version__}\n"


def test_a_recipe_may_be_named_without_its_ending(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("name: Mine\n", encoding="utf-8")
    assert run("show", "my", cwd=tmp_path).stdout.startswith("name: Mine\n")
    (tmp_path / "aj.yaml").write_text("name: Mine\n", encoding="utf-8")
    assert not run("show", "aj", cwd=tmp_path).stdout.startswith("name: Mine\n"), "a shipped recipe keeps its name"
