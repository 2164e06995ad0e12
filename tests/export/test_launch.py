"""`launch` for every shipped recipe: tasks that SkyPilot and Slurm take, a price before anything is rented."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from agentforge.cli import app
from agentforge.errors import CheckRefused, MachineRefused, UserError
from agentforge.export import launch as launching
from agentforge.export.deploy import task_of
from agentforge.export.launch import prepare_launch, start
from agentforge.recipe.loading import load_recipe, load_stages, recipe_names
from tests.export.skypilot_schema import TASK
from tests.export.test_deploy import ROOT, SYSTEMS, resolve_task, resolve_verb

READS = """
import json, sys
import sky
for text in json.load(sys.stdin):
    task = sky.Task.from_yaml_str(text)
    print(task.name, task.resources)
"""


SEVERAL = ["hardware=2x8"]
SHIPPED = {"aj", "affine", "adamba", "cognate", "agiformer"}


def tasks(
    slurm: bool = False, changed: Sequence[str] = (), least: Iterable[str] = SHIPPED
) -> dict[tuple[str, str | None], str]:
    """The task of every shipped recipe that can have one."""
    found = {}
    for name, profile in [*((name, None) for name in recipe_names()), *((name, "tiny") for name in SYSTEMS)]:
        try:
            found[name, profile] = task_of(name, "out/task", changed, profile, slurm=slurm)
        except UserError:
            continue
    assert set(least) <= {name for name, _ in found}
    return found


@pytest.fixture
def two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose hardware `2x8` is two nodes of eight GPUs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs/hardware").mkdir(parents=True)
    one = yaml.safe_load((ROOT / "configs/hardware/8xh200.yaml").read_text())
    (tmp_path / "configs/hardware/2x8.yaml").write_text(yaml.safe_dump(one | {"gpus": 16, "nodes": 2}))
    return tmp_path


def test_every_task_is_one_that_skypilot_takes() -> None:
    for (name, profile), text in tasks().items():
        jsonschema.validate(yaml.safe_load(text), TASK)
        resolve_task(name, profile, text, load_stages(load_recipe(name, profile=profile), profile=profile))


def test_every_task_for_several_nodes_is_one_that_skypilot_takes(two_nodes: Path) -> None:
    """The first node runs all the stages; each other one trains along, at the port where the first one is."""
    for (name, profile), text in tasks(changed=SEVERAL, least=["adamba", "cognate", "agiformer"]).items():
        task = yaml.safe_load(text)
        jsonschema.validate(task, TASK)
        assert task["num_nodes"] == 2 and task["resources"]["accelerators"] == "H200:8"
        resolve_task(name, profile, text, load_stages(load_recipe(name, SEVERAL, profile), SEVERAL, profile))
        run = task["run"]
        joined = re.findall(r"^  join (\d+) (.*)$", run, re.M)
        meet = re.findall(r'^(\S+/agentforge train .*) --node-rank 0 --rendezvous "\$first:(\d+)"$', run, re.M)
        assert joined == [(port, line) for line, port in meet] and len(meet) == run.count("agentforge train") / 2 > 0
        assert len({port for port, _ in joined}) == len(joined), "who comes late must not join the training before"
        assert run.index(" join ") < run.index("  exit 0\n") < run.index("agentforge.export.bucket restore")


@pytest.mark.skipif("SKYPILOT_PYTHON" not in os.environ, reason="SKYPILOT_PYTHON names no python with SkyPilot")
def test_skypilot_itself_reads_every_task(two_nodes: Path) -> None:
    written = [*tasks().values(), *tasks(changed=SEVERAL, least=["adamba"]).values()]
    command = [os.environ["SKYPILOT_PYTHON"], "-c", READS]
    run = subprocess.run(command, input=json.dumps(written), capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0 and len(run.stdout.splitlines()) == len(written), run.stderr


def test_spot_and_on_demand() -> None:
    for spot in (True, False):
        resources = yaml.safe_load(prepare_launch("adamba", spot=spot).text)["resources"]
        assert resources["accelerators"] == "H200:8" and resources["use_spot"] is spot
        assert resources["job_recovery"] == {"recover_on_exit_codes": [75]}, "what stopped in order goes on"


def test_every_slurm_job_is_one_that_sbatch_takes() -> None:
    for (name, profile), text in tasks(slurm=True).items():
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        assert text.startswith("#!/bin/bash\n")
        options = re.findall(r"^#SBATCH (--[a-z-]+)(?:=\S+)?$", text, re.M)
        assert len(options) == text.count("\n#SBATCH ") and len(options) == len(set(options))
        recipe = load_recipe(name, profile=profile)
        assert ("--gpus-per-node" in options) == (recipe.hardware != "cpu")
        words = [line.split()[2:] for line in text.splitlines() if line.startswith("step .venv/bin/agentforge ")]
        assert words and all(resolve_verb(each).output_dir == recipe.output_dir for each in words)
        assert not [each for each in words if each[0] == "download"], "compute nodes often have no network"


STAGE = """#!/bin/bash
trap 'echo saved; exit 75' TERM
echo "$1" >> log
[ "$1" = "$FAILS" ] && exit 3
[ "$1" != "$HANGS" ] || for i in $(seq 100); do sleep 0.1; done
exit 0
"""


@pytest.mark.parametrize(
    ("hangs", "fails", "code", "ran"), [("", "", 0, 2), ("", "train", 3, 2), ("prepare", "", 75, 1)]
)
def test_a_slurm_job_whose_time_is_over_is_queued_again(
    tmp_path: Path, hangs: str, fails: str, code: int, ran: int
) -> None:
    """The script itself, with stages and a scheduler of our own."""
    lines = task_of("cognate/trunk", "x.sh", slurm=True).splitlines()
    kept = [line for line in lines if not line.startswith("step ") or line.split()[2] in ("prepare", "train")]
    (tmp_path / "job.sh").write_text("\n".join(kept))
    write_programs(tmp_path, {".venv/bin/agentforge": STAGE, "bin/scontrol": '#!/bin/sh\necho "$@" > requeued\n'})
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    environment = {"PATH": path, "SLURM_JOB_ID": "7", "HANGS": hangs, "FAILS": fails}
    job = subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    until = time.monotonic() + 20
    while hangs and not (tmp_path / "log").is_file() and time.monotonic() < until:
        time.sleep(0.05)
    if hangs:
        time.sleep(0.3)
        job.terminate()
    said, _ = job.communicate(timeout=30)
    assert job.returncode == code and len((tmp_path / "log").read_text().split()) == ran
    assert (tmp_path / "requeued").is_file() == (code == 75)
    assert said == ("saved\n" if hangs else ""), "the stage got the signal once"


def write_programs(directory: Path, programs: dict[str, str]) -> None:
    for name, script in programs.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(script)
        (directory / name).chmod(0o755)


# Trains with the other one: the first opens the port and waits, the second must find it open.
TOGETHER = """#!{python}
import socket, sys
words = sys.argv[1:]
with open("log", "a") as log:
    print(*words, file=log)
if words[0] == "train":
    place = words[words.index("--rendezvous") + 1].rpartition(":")
    if words[words.index("--node-rank") + 1] == "0":
        with socket.create_server((place[0], int(place[2]))) as server:
            server.settimeout(60)
            while True:  # who only looks whether the port is open says nothing
                peer, _ = server.accept()
                if peer.recv(5):
                    break
    else:
        socket.create_connection((place[0], int(place[2]))).sendall(b"there")
"""
QUICK = '#!/bin/sh\n[ "$1" -gt 60 ] && exec /bin/sleep "$1"; exec /bin/sleep 0.05\n'
MOUNTS = """#!/bin/bash
case "$1" in
  mount) echo "${@:2}" >> mounted; [ "$(wc -l < mounted)" -gt 1 ];;  # the first time the other node is not ready
  exportfs) echo "${@:2}" >> exported;;
esac
"""


def test_rented_nodes_meet_at_each_training(two_nodes: Path) -> None:
    """The script itself on two nodes at once, with stand-ins for agentforge, NFS and the bucket."""
    run = yaml.safe_load(prepare_launch("agiformer", SEVERAL).text)["run"]
    ports = [free_port() for _ in range(3)]
    for number, port in enumerate(ports):
        run = run.replace(str(29500 + number), str(port))
    programs = {
        ".venv/bin/agentforge": TOGETHER.format(python=sys.executable),
        ".venv/bin/python": '#!/bin/sh\necho "$3" >> log\n',
        "bin/sleep": QUICK,
        "bin/sudo": MOUNTS,
        "bin/mountpoint": "#!/bin/bash\n[ -f mounted ] && [ $(wc -l < mounted) -gt 1 ]\n",
    }
    nodes = []
    for rank in (0, 1):
        place = two_nodes / f"node-{rank}"
        write_programs(place, programs)
        path = f"{place}/bin:{os.environ['PATH']}"
        variables = {"SKYPILOT_NODE_RANK": str(rank), "SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.2", "PATH": path}
        nodes.append(subprocess.Popen(["bash", "-c", run], cwd=place, env=variables))
    assert [node.wait(120) for node in nodes] == [0, 0]
    first, second = ((two_nodes / f"node-{rank}" / "log").read_text().splitlines() for rank in (0, 1))
    trained = [f"agiformer/{name} hardware=2x8" for name in ("bytes", "same_parameters", "same_flops")]
    assert second == [
        f"train {name} --node-rank 1 --rendezvous 127.0.0.1:{p}" for name, p in zip(trained, ports, strict=True)
    ]
    assert [line for line in first if line.startswith("train ")] == [
        line.replace("rank 1", "rank 0") for line in second
    ]
    assert [line.split()[0] for line in first if not line.startswith("train ")] == [
        *("restore", "download", "prepare", "evaluate", "report", "save")
    ]
    runs = [f"{two_nodes}/node-{rank}/runs/agiformer" for rank in (0, 1)]
    exported = (two_nodes / "node-0" / "exported").read_text().splitlines()
    assert exported == [f"-o rw,no_subtree_check,no_root_squash 127.0.0.{n}:{runs[0]}" for n in (1, 2)]
    mounted = (two_nodes / "node-1" / "mounted").read_text().splitlines()
    assert mounted == [f"-t nfs -o actimeo=3 127.0.0.1:{runs[1]} {runs[1]}"] * 2, "on rented nodes both paths are one"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_on_several_nodes_all_train_and_the_first_does_the_rest(two_nodes: Path) -> None:
    """The script itself; a stand-in for srun runs the command once for each node."""
    tmp_path = two_nodes
    text = prepare_launch("cognate/trunk", SEVERAL, slurm=True).text
    assert "#SBATCH --nodes=2\n" in text and "#SBATCH --gpus-per-node=8\n" in text
    lines = [
        line
        for line in text.splitlines()
        if not line.startswith("step ") or line.split()[2] == "prepare" or " train " in line
    ]
    (tmp_path / "job.sh").write_text("\n".join(lines))
    srun = '#!/bin/bash\nshift; for node in 0 1; do SLURM_NODEID=$node "$@" || exit; done\n'
    write_programs(tmp_path, {".venv/bin/agentforge": '#!/bin/sh\necho "$@" >> log\n', "bin/srun": srun})
    environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    subprocess.run(["bash", "job.sh"], cwd=tmp_path, env=environment, check=True)
    head = subprocess.run(["hostname"], capture_output=True, text=True).stdout.strip()
    assert (tmp_path / "log").read_text().splitlines() == [
        "prepare cognate/trunk hardware=2x8",
        *[f"train cognate/trunk hardware=2x8 --node-rank {node} --rendezvous {head}:29500" for node in (0, 1)],
    ]


def test_the_price_is_said_and_nothing_is_rented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke(app, ["launch", "aj", "--dry-run"])
    assert run.exit_code == 0 and yaml.safe_load(run.stdout)["resources"]["use_spot"] is True
    assert re.fullmatch(
        r"AJ-.* on 1xh200 \(1x H200.*\): \d+ \(.*\) hours, \$\d+ \(.*\); spot machines .*\n", run.stderr
    )
    run = CliRunner().invoke(app, ["launch", "aj"], input="n\n")
    assert run.exit_code == 3 and not list(tmp_path.iterdir())


def test_a_run_above_its_budget_is_not_launched() -> None:
    with pytest.raises(CheckRefused, match=r"budget\.max_cost is \$5\.00"):
        prepare_launch("aj", ["budget.max_cost=5"])


def test_what_skypilot_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launching.shutil, "which", lambda name: f"/usr/bin/{name}")
    given: list[list[str]] = []

    def run(command: list[str]) -> Any:
        given.append(command)
        return subprocess.CompletedProcess(command, len(given) - 1)

    ready = prepare_launch("aj", ["seed=3"])
    start(ready, run)
    assert given == [["sky", "jobs", "launch", str(ready.file), "--secret", "HF_TOKEN", "--yes", "--detach-run"]]
    assert ready.file.read_text() == ready.text and "agentforge launch aj seed=3" in ready.text
    with pytest.raises(MachineRefused, match="`sky jobs launch` ended with exit code 1; its message is above"):
        start(ready, run)


@pytest.mark.parametrize(
    ("slurm", "says"), [(False, "SkyPilot is not installed; pipx install"), (True, "sbatch is not")]
)
def test_without_skypilot_or_slurm_it_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slurm: bool, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launching.shutil, "which", lambda name: None)
    with pytest.raises(MachineRefused, match=says):
        start(prepare_launch("aj", slurm=slurm))
    assert not list(tmp_path.iterdir())
