"""The sandbox holds: every limit is run into and every way out is tried."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentforge.environments.sandbox import pool as sandbox_pool
from agentforge.environments.sandbox import sandbox as module
from agentforge.environments.sandbox.sandbox import (
    Limits,
    Sandbox,
    isolation,
    isolation_problem,
    run_command,
    run_program,
)
from agentforge.errors import CheckRefused

isolated_only = pytest.mark.skipif(isolation_problem() is not None, reason=f"no isolation here: {isolation_problem()}")


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with Sandbox({"notes/a.txt": "grüße\n"}, allow_unisolated=True) as made:
        yield made


def running(word: str) -> list[str]:
    """Command lines of this machine's processes that hold a word."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return [line for line in lines if word in line and "pytest" not in line]


def test_output_exit_code_and_files(box: Sandbox) -> None:
    result = box.run("cat notes/a.txt; echo bad >&2; exit 7")
    assert (result.exit_code, result.stdout, result.stderr) == (7, "grüße\n", "bad\n")
    assert not result.timed_out
    assert not result.truncated


def test_the_directory_lasts_and_is_empty_in_the_next_sandbox() -> None:
    with Sandbox(allow_unisolated=True) as box:
        box.run("echo kept > f; echo gone > /tmp/f")
        assert box.run("cat f; [ $PWD = $HOME ] && echo home").stdout == "kept\nhome\n"
        with Sandbox(allow_unisolated=True) as other:
            assert other.run("ls -A").stdout == ""


def test_files_stay_inside() -> None:
    with pytest.raises(ValueError, match="outside of the sandbox"):
        run_command("true", files={"../x": "y"}, allow_unisolated=True)


def test_a_link_does_not_lead_a_later_write_out(box: Sandbox, tmp_path: Path) -> None:
    box.run(f"ln -s {tmp_path} way")
    with pytest.raises(ValueError, match="outside of the sandbox"):
        box.write("way/x", "y")


def test_secrets_of_the_environment_are_not_passed_on(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert "hf_secret" not in box.run("env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'; set").stdout


def test_time_is_up_for_every_process(box: Sandbox) -> None:
    started = time.monotonic()
    result = box.run("sleep 4321 & sleep 4321 & echo begun; wait", timeout=3)
    assert result.timed_out
    assert result.stdout == "begun\n"
    assert time.monotonic() - started < 30
    assert running("4321") == []


@isolated_only
@pytest.mark.parametrize(
    "command", ["setsid sleep 54321 & exit 3", "(setsid nohup sleep 54321 >/dev/null 2>&1 &) ; exit 3"]
)
def test_nothing_survives_the_command(box: Sandbox, command: str) -> None:
    result = box.run(command)
    assert result.exit_code == 3
    assert result.seconds < 30
    assert running("54321") == []


def test_closed_outputs_do_not_end_the_command(box: Sandbox) -> None:
    result = box.run("exec >&- 2>&-; sleep 0.3; echo x > f; exit 3")
    assert (result.exit_code, box.run("cat f").stdout) == (3, "x\n")
    assert box.run("exec >&- 2>&-; sleep 4321", timeout=1).timed_out


def test_output_is_capped() -> None:
    result = run_command("yes | head -c 5000000; echo end", limits=Limits(output=1000), allow_unisolated=True)
    assert result.truncated
    assert result.exit_code == 0, "the rest is read and dropped, the command does not block"
    assert len(result.stdout) == 1000


def test_binary_output_is_text(box: Sandbox) -> None:
    assert box.run("printf 'a\\xff\\xfeb'").stdout == "a\ufffd\ufffdb"


def test_a_signal_is_an_exit_code(box: Sandbox) -> None:
    assert box.run("kill -9 $$").exit_code == 137


@pytest.mark.parametrize(
    ("limits", "command", "shown"),
    [
        (Limits(memory=64 << 20), "head -c 500M /dev/zero | tail", "memory"),
        (Limits(file_size=1 << 20), "head -c 5000000 /dev/zero > f", ""),
        (Limits(open_files=16), 'for i in $(seq 20 40); do eval "exec $i>f" || exit 1; done', "descriptor"),
        (Limits(cpu_seconds=1), "while :; do :; done", ""),
        (Limits(processes=20), "exec sh -c 'for i in $(seq 60); do sleep 3 & done'", "fork"),
    ],
)
def test_limits_bind(limits: Limits, command: str, shown: str) -> None:
    result = run_command(command, limits=limits, timeout=60, allow_unisolated=True)
    assert result.exit_code != 0 or shown in result.stderr
    assert shown in result.stderr
    assert not result.timed_out


@isolated_only
def test_there_is_no_network(box: Sandbox) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = box.run(f"exec 3<>/dev/tcp/127.0.0.1/{port}")
    assert result.exit_code != 0
    assert box.run("cat /proc/net/dev | grep -v lo: | wc -l").stdout == "2\n", "two lines of headings, no device"


@isolated_only
def test_the_host_is_hidden(box: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret")
    assert "s3cret" not in box.run(f"cat {tmp_path}/secret; grep -r s3cret /tmp").stdout
    assert box.run("ls /mnt /srv /var 2>/dev/null").stdout == ""
    assert str(os.getpid()) not in box.run("ls /proc").stdout.split()
    assert box.run("touch /usr/bin/mine /etc/passwd").exit_code != 0


@isolated_only
@pytest.mark.parametrize("command", ["unshare -Ur true", "mount -t tmpfs x /tmp", "chroot .. true", "mknod d b 8 0"])
def test_no_privilege_is_left(box: Sandbox, command: str) -> None:
    assert box.run(command).exit_code != 0
    assert "CapEff:\t0000000000000000" in box.run("cat /proc/self/status").stdout


def test_commands_run_side_by_side() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda i: run_command(f"sleep 0.1; echo {i}", allow_unisolated=True).stdout, range(8))
    assert list(results) == [f"{i}\n" for i in range(8)]


def test_a_program_reads_its_input() -> None:
    result = run_program("print(int(input()) + 1)\nprint(repr(input()))", "41\ngrüße", allow_unisolated=True)
    assert (result.exit_code, result.stdout) == (0, "42\n'grüße'\n")


def test_a_program_that_fails_shows_why() -> None:
    result = run_program("import sys\nprint(1)\nraise ValueError('bad')", allow_unisolated=True)
    assert (result.exit_code, result.stdout) == (1, "1\n")
    assert result.stderr.endswith("ValueError: bad\n")
    assert run_program("import sys\nsys.exit(3)", allow_unisolated=True).exit_code == 3


def test_a_program_is_stopped() -> None:
    assert run_program("while True: pass", timeout=1, allow_unisolated=True).timed_out


def test_without_isolation_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "isolation_problem", lambda: "unshare: Operation not permitted")
    with pytest.raises(CheckRefused, match=r"cannot be isolated on this machine \(unshare"):
        run_command("true")
    assert isolation().startswith("NOT isolated")


def test_without_isolation_it_says_so_and_holds_what_it_can(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "isolation_problem", lambda: "unshare: Operation not permitted")
    module._warn.cache_clear()
    for _ in range(2):
        result = run_command("echo run", allow_unisolated=True)
        assert (result.stdout, result.isolated) == ("run\n", False)
    assert [record.message[:44] for record in caplog.records] == ["what models write is run NOT isolated (unsha"], (
        "once"
    )
    assert run_program("import socket; socket.socket()", allow_unisolated=True).stderr.endswith(
        "not supported by protocol\n"
    )
    assert run_program("print(open('left').read())", allow_unisolated=True).exit_code == 1
    run_command("echo x > left; (setsid sleep 65432 &) ; sleep 65432", timeout=1, allow_unisolated=True)
    assert running("65432") == []
    assert run_command("ls -A", allow_unisolated=True).stdout == "", "the directory is emptied"


def test_zygotes_outlive_the_thread_that_started_them_and_are_not_shared_with_a_fork() -> None:
    """A process that dies with its parent dies with the parent's thread; and two users of one zygote would mix."""
    import multiprocessing
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(run_program, "print(1)", allow_unisolated=True).result()
    with multiprocessing.get_context("fork").Pool(2) as forks:
        others = forks.map(forked, range(2, 8))
    assert [first.stdout, run_program("print(8)", allow_unisolated=True).stdout, *others] == [
        f"{n}\n" for n in (1, 8, *range(2, 8))
    ]


def forked(number: int) -> str:
    return run_program(f"print({number})", allow_unisolated=True).stdout


@isolated_only
def test_a_zygote_that_was_killed_is_replaced() -> None:
    with sandbox_pool.pool(True).borrow() as zygote:
        zygote.wait()
        zygote._process.kill()
    for _ in range(4):
        assert run_program("print(1)").stdout == "1\n"


def test_a_failed_set_up_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command must not run half isolated."""
    monkeypatch.setattr(sandbox_pool, "LAUNCHER", Path("/nowhere"))
    with pytest.raises(sandbox_pool.ZygoteFailed):
        sandbox_pool.Zygote().wait()


def test_a_closed_sandbox_says_so(box: Sandbox) -> None:
    box.close()
    with pytest.raises(RuntimeError, match="the sandbox has failed"):
        box.run("true")
