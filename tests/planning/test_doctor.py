"""What doctor finds here; the hardware and the cache are set, the rest is this machine."""

import subprocess
import sys
from pathlib import Path

import pytest

from agentforge.environments.sandbox import sandbox
from agentforge.environments.sandbox.sandbox import isolation_problem
from agentforge.planning import doctor
from agentforge.planning.doctor import Check, diagnose, requirements
from agentforge.recipe.hardware import Gpu, Machine
from agentforge.recipe.loading import load_recipe

H200 = Gpu("NVIDIA H200", 140.4)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))


def pretend(monkeypatch: pytest.MonkeyPatch, *gpus: Gpu, memory: float = 8.0) -> None:
    monkeypatch.setattr(doctor, "this_machine", lambda: Machine(gpus, 2, memory))


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_without_a_recipe_it_looks_at_the_machine_alone() -> None:
    checks = by_name(diagnose())
    assert set(checks) == {"python", "libraries", "torch", "machine", "disk", "gguf", "sandbox"}
    assert checks["libraries"].state == "ok"
    assert checks["sandbox"].state == ("ok" if isolation_problem() is None else "warn")


def test_a_sandbox_that_is_not_isolated_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "isolation_problem", lambda: "unshare: Operation not permitted")
    check = by_name(diagnose())["sandbox"]
    assert check.state == "warn" and "NOT isolated (unshare" in check.detail and "sysctl" in check.mend


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["output_dir=file/runs"], "file leads through a file where a directory is needed"),
        (["name=" + "x" * 240], "is too long a name for the file system"),
    ],
)
def test_it_tries_to_write_where_the_artefacts_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], says: str
) -> None:
    recipe = load_recipe("aj/tiny_base", overrides)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    check = by_name(diagnose(recipe))["writing"]
    assert check.state == "missing" and says in check.detail and "output_dir" in check.mend
    assert ".doctor-" not in check.detail
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_cpu_user_learns_why_not_here_and_what_it_would_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    checks = by_name(diagnose(load_recipe("aj"), "aj"))
    hardware = checks["hardware"]
    assert hardware.state == "missing" and hardware.mend.startswith("agentforge plan aj")
    for part in (
        "1x H200, 139.8 GiB",
        "needs 75.0 GiB",
        "no GPU, 2 cores, 8 GiB",
        "years",
        "on 1xh200 about 26.9 h and $94",
    ):
        assert part in hardware.detail
    assert checks["host memory"].state == "missing" and "needs 61.0" in checks["host memory"].detail
    assert checks["base"] == Check(
        "base",
        "missing",
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B is not in the Hub's cache",
        "agentforge download aj",
    )
    assert checks["data wildchat"].mend == "agentforge download aj"
    assert checks["hub"].mend == "unset HF_HUB_OFFLINE"


def test_the_right_gpu_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, H200, memory=200.0)
    checks = by_name(diagnose(load_recipe("aj"), "aj"))
    assert checks["hardware"].state == "ok" and checks["host memory"].state == "ok"


def test_a_gpu_with_a_cpu_build_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, H200)
    monkeypatch.setattr(doctor, "_torch_cuda", lambda: None)
    check = by_name(diagnose())["torch"]
    assert check.state == "missing" and "--force-reinstall torch==" in check.mend
    monkeypatch.setattr(doctor, "_torch_cuda", lambda: "13.0")
    monkeypatch.setattr(doctor, "_driver_cuda", lambda: "12.4")
    assert by_name(diagnose())["torch"].mend == "update the NVIDIA driver"


def test_another_gpu_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, Gpu("NVIDIA GeForce RTX 4090", 24.0))
    assert "24 GiB: too small" in by_name(diagnose(load_recipe("aj")))["hardware"].detail


def test_the_tiny_profile_runs_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend(monkeypatch)
    checks = by_name(diagnose(load_recipe("aj", profile="tiny"), "aj --profile tiny"))
    assert checks["hardware"].state == checks["host memory"].state == checks["disk"].state == "ok"
    assert "hub" not in checks


def test_files_of_preferences_and_questions_and_classes_of_environments_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"chosen": "a", "rejected": "b"}\n')
    lines = f"[{{dataset: {tmp_path}/pairs.jsonl}}, {{dataset: {tmp_path}/gone.jsonl}}]"
    checks = by_name(
        diagnose(load_recipe("affine/dpo", [f"train.preferences={lines}", "train.episodes=[]"], profile="tiny"))
    )
    assert checks[f"data {tmp_path}/pairs.jsonl"].state == "ok"
    assert checks[f"data {tmp_path}/gone.jsonl"].state == "missing"
    assert checks["environment affine:sat"].state == "ok"
    mine = ["environments={mine: {class: 'nowhere.at:All'}}", "evaluate.tool_calls={prompts: gone.jsonl}"]
    checks = by_name(diagnose(load_recipe("affine/grpo", mine, profile="tiny")))
    assert "cannot be imported" in checks["environment mine"].detail
    assert checks["data for evaluate.tool_calls"].state == "missing"


def test_environments_are_made() -> None:
    """Those of other libraries, and those that need a server, too."""
    here = [
        "environments={'gymnasium:FrozenLake-v1': {}, 'gymnasium:Nowhere-v0': {}, 'openenv:it': {url: 'http://127.0.0.1:9'}}"
    ]
    checks = by_name(diagnose(load_recipe("affine/grpo", here, profile="tiny")))
    assert checks["environment gymnasium:FrozenLake-v1"].state == "ok"
    assert "Nowhere" in checks["environment gymnasium:Nowhere-v0"].detail
    assert checks["environment openenv:it"].state == "missing"


def test_a_source_that_is_off_says_why() -> None:
    checks = by_name(diagnose(load_recipe("aj", ["data.mix=[{dataset: skein}]"])))
    assert checks["data skein"].state == "missing" and "is off" in checks["data skein"].detail


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1e9})()
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: usage)
    check = by_name(diagnose(load_recipe("aj")))["disk"]
    assert check.state == "missing" and check.detail.startswith("1.0 GB free")


def test_an_old_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "requirements", lambda: {"trl": "<1", "nothing-like-this": ">=1"})
    check = by_name(diagnose())["libraries"]
    assert check.mend == "make setup"
    assert "trl is 1." in check.detail and "<1 is needed" in check.detail
    assert "nothing-like-this is not installed" in check.detail


def test_requirements_are_the_distribution_s_without_extras() -> None:
    found = requirements()
    assert found["trl"] == "<1.17,>=1.16" and "pytest" not in found and "llama-cpp-python" not in found


@pytest.mark.parametrize(
    "arguments", [["--help"], ["show", "aj"], ["plan", "aj"], ["doctor", "aj"], ["show", "--json-schema"]]
)
def test_nothing_heavy_is_imported(arguments: list[str]) -> None:
    code = f"""
import sys
sys.argv = ["agentforge", *{arguments!r}]
from agentforge.cli import main
try:
    main()
except SystemExit as leave:
    assert leave.code in (0, 3, None), leave.code
heavy = {{"torch", "transformers", "datasets", "numpy", "scipy", "pyarrow", "trl", "peft", "huggingface_hub"}}
print("HEAVY", sorted(heavy & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout.rstrip().endswith("HEAVY []"), run.stdout[-200:] + run.stderr[-2000:]


def test_a_base_that_surgery_makes_is_made_by_surgery(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    base = by_name(diagnose(load_recipe("adamba/phase3b"), "adamba/phase3b"))["base"]
    assert (base.state, base.mend) == ("warn", "agentforge surgery adamba/phase3a")


@pytest.mark.parametrize(
    ("recipe", "gpus", "version", "says"),
    [
        ("affine/grpo", [H200], None, "not installed"),
        ("affine/grpo", [], "0.28.0", "no CUDA GPU here"),
        ("affine/grpo", [H200], "0.28.0", "vLLM 0.28.0"),
        ("cognate/reasoning", [H200], "0.28.0", "does not know the models of cognate"),
    ],
)
def test_it_knows_what_vllm_needs(
    monkeypatch: pytest.MonkeyPatch, recipe: str, gpus: list[Gpu], version: str | None, says: str
) -> None:
    pretend(monkeypatch, *gpus)
    monkeypatch.setattr(doctor, "_version", lambda name: version if name == "vllm" else "1.0")
    check = by_name(diagnose(load_recipe(recipe, ["rollouts.engine=vllm"])))["vllm"]
    assert says in check.detail and check.state == ("ok" if check.detail == "vLLM 0.28.0" else "missing")
    assert "vllm" not in by_name(diagnose(load_recipe(recipe)))


def test_a_hybrids_kernels_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("adamba/phase1")
    check = by_name(diagnose(recipe))["mamba kernels"]
    assert check.state == "warn" and "mamba-ssm and causal-conv1d not installed" in check.detail
    assert "up to 3 times" in check.detail and "agentforge-train[mamba]" in check.mend
    known = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: "2.3" if name in doctor.SCAN_KERNELS else known(name))
    assert by_name(diagnose(recipe))["mamba kernels"].state == "ok"
    assert "mamba kernels" not in by_name(diagnose(load_recipe("aj/sft")))
    assert "mamba kernels" not in by_name(diagnose(load_recipe("adamba/phase1", profile="tiny")))


def test_how_the_training_is_launched_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    eight = load_recipe("aj/sft", profile="8xh200")
    assert by_name(diagnose(eight))["launch"].detail == "8 processes, DDP: all of it fits on each device"
    known = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "deepspeed" else known(name))
    check = by_name(diagnose(load_recipe("aj/sft", ["train.launch=zero3"], profile="8xh200")))["launch"]
    assert check.state == "missing" and "DeepSpeed is not installed" in check.detail
