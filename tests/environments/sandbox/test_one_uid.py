"""In a user namespace with one uid, as in rootless containers: root there cannot become anyone else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentforge.environments.sandbox import pool as sandbox_pool
from agentforge.environments.sandbox.sandbox import isolation_problem

SCRIPT = """
import json, os, sys
from agentforge.environments.sandbox import sandbox

bomb = '''
import os, time
try:
    while True:
        if not os.fork(): time.sleep(100)
except OSError: pass
'''
settings = '''
for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/self/oom_score_adj"):
    try: open(path, "r+b"); print("open", path)
    except OSError as error: print(error.errno)
'''
said = {
    "uid": os.getuid(),
    "problem": sandbox.isolation_problem(),
    "user": sandbox.run_command("id -u; grep CapEff /proc/self/status").stdout,
    "bomb": sandbox.run_program(bomb, timeout=20).timed_out,
    "settings": sandbox.run_program(settings).stdout,
}
sandbox.isolation_problem = lambda: "told so"
said["sentence"] = sandbox.isolation()
result = sandbox.run_command("echo x > f; cat f; id -u", allow_unisolated=True)
said["fallback"] = [result.stdout, result.isolated]
print(json.dumps(said))
"""


def _one_uid() -> str | None:
    if shutil.which("unshare") is None:
        return "there is no unshare(1)"
    run = subprocess.run(["unshare", "-r", "true"], capture_output=True, text=True)
    return run.stderr.strip() if run.returncode else isolation_problem()


@pytest.mark.skipif(_one_uid() is not None, reason=f"no namespace of one uid here: {_one_uid()}")
def test_root_of_one_uid_is_isolated_and_falls_back(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    command = ["unshare", "-r", sys.executable, "-c", SCRIPT]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    said: dict[str, Any] = json.loads(run.stdout)
    assert (said["uid"], said["problem"]) == (0, None)
    assert said["user"].split() == ["65534", "CapEff:", "0000000000000000"]
    assert not said["bomb"], "killed at the first look where RLIMIT_NPROC does not bind this user; else refused"
    assert said["settings"] == "30\n" * 3, "EROFS: root's settings ask for no capability"
    assert "every file that this user may read" in said["sentence"]
    assert said["fallback"] == ["x\n0\n", False]
    assert list(tmp_path.iterdir()) == [], "no directory is left"


def test_a_zygote_that_cannot_be_started_leaves_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_pool.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sandbox_pool, "PYTHON", "/nowhere/python")
    with pytest.raises(sandbox_pool.ZygoteFailed, match="cannot be started"):
        sandbox_pool.Zygote(isolate=False)
    assert list(tmp_path.iterdir()) == []
