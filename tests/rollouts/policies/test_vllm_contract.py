"""What is asked of vLLM, held against its own source where that is: installed, or unpacked where VLLM_SOURCE says.

vLLM needs CUDA to be imported, so its source is parsed. Without it the test is skipped; it last passed with 0.28.0.
"""

from __future__ import annotations

import ast
import importlib.util
import os
from pathlib import Path

import pytest

# A file, a class or function in it, and the names that are passed to it or read from it.
TAKEN: list[tuple[str, str, tuple[str, ...]]] = [
    (
        "entrypoints/llm.py",
        "LLM.__init__",
        ("model", "revision", "trust_remote_code", "dtype", "seed", "gpu_memory_utilization", "tensor_parallel_size"),
    ),
    (
        "engine/arg_utils.py",
        "EngineArgs",
        (
            *("max_model_len", "max_num_seqs", "max_num_batched_tokens", "enable_prefix_caching", "logprobs_mode"),
            *("enable_sleep_mode", "distributed_executor_backend", "enable_lora", "max_lora_rank"),
        ),
    ),
    ("entrypoints/llm.py", "LLM.generate", ("prompts", "sampling_params", "use_tqdm", "lora_request")),
    ("entrypoints/llm.py", "LLM.sleep", ("level",)),
    ("entrypoints/llm.py", "LLM.wake_up", ("tags",)),
    ("entrypoints/llm.py", "LLM.reset_prefix_cache", ()),
    ("v1/engine/llm_engine.py", "LLMEngine.add_request", ("request_id", "prompt", "params", "lora_request")),
    ("v1/engine/llm_engine.py", "LLMEngine.step", ()),
    (
        "sampling_params.py",
        "SamplingParams",
        (
            *("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "stop_token_ids"),
            *("ignore_eos", "logprobs", "detokenize", "output_kind"),
        ),
    ),
    ("sampling_params.py", "RequestOutputKind", ("FINAL_ONLY",)),
    ("outputs.py", "CompletionOutput", ("token_ids", "logprobs", "finish_reason")),
    ("outputs.py", "RequestOutput.__init__", ("request_id", "outputs", "finished")),
    (
        "entrypoints/openai/completion/protocol.py",
        "CompletionRequest",
        (
            *("model", "prompt", "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed"),
            *("stop_token_ids", "ignore_eos", "logprobs", "return_token_ids", "return_tokens_as_token_ids"),
        ),
    ),
    (
        "entrypoints/openai/completion/protocol.py",
        "CompletionResponseChoice",
        ("token_ids", "logprobs", "finish_reason"),
    ),
    ("entrypoints/openai/completion/protocol.py", "CompletionLogProbs", ("token_logprobs",)),
    ("distributed/weight_transfer/nccl_common.py", "trainer_init", ("init_info",)),
    (
        "distributed/weight_transfer/packed_tensor.py",
        "packed_nccl_broadcast_producer",
        ("iterator", "group", "src", "post_iter_func"),
    ),
]
# A file, and text that stands in it.
WRITTEN = [
    ("v1/engine/__init__.py", '"abort"'),
    ("config/parallel.py", 'os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"'),  # for external_launcher
    ("v1/engine/llm_engine.py", "self.model_executor = self.engine_core.engine_core.model_executor"),
    *(
        ("entrypoints/serve/dev/rlhf/api_router.py", f'"/{path}"')
        for path in ("init_weight_transfer_engine", "start_weight_update", "update_weights", "finish_weight_update")
    ),
    ("entrypoints/serve/dev/rlhf/api_router.py", '"/get_world_size"'),
    ("entrypoints/serve/dev/cache/api_router.py", 'content={"success": bool(success)}'),
    ("entrypoints/serve/dev/server_info/api_router.py", '"vllm_config": ('),
]


@pytest.fixture(scope="module")
def source() -> Path:
    if (given := os.environ.get("VLLM_SOURCE")) is not None:
        return Path(given)
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        pytest.skip("vLLM's source is not here; set VLLM_SOURCE to an unpacked wheel's `vllm`")
    return Path(spec.origin).parent


def names_in(node: ast.AST) -> set[str]:
    """The parameters of a function, or the fields of a class."""
    if isinstance(node, ast.FunctionDef):
        return {argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
    assert isinstance(node, ast.ClassDef)
    targets = [
        target
        for part in node.body
        if isinstance(part, (ast.AnnAssign, ast.Assign))
        for target in (part.targets if isinstance(part, ast.Assign) else [part.target])
    ]
    return {target.id for target in targets if isinstance(target, ast.Name)}


@pytest.mark.parametrize(("file", "place", "names"), TAKEN, ids=[place for _, place, _ in TAKEN])
def test_vllm_still_takes_what_it_is_given(source: Path, file: str, place: str, names: tuple[str, ...]) -> None:
    node: ast.AST = ast.parse((source / file).read_text(encoding="utf-8"))
    for part in place.split("."):
        found = [
            inner
            for inner in ast.iter_child_nodes(node)
            if isinstance(inner, (ast.ClassDef, ast.FunctionDef)) and inner.name == part
        ]
        assert found, f"{place} is gone from {file}"
        node = found[-1]
    assert set(names) <= names_in(node)


@pytest.mark.parametrize(("file", "text"), WRITTEN, ids=[text for _, text in WRITTEN])
def test_vllm_still_does_what_is_relied_upon(source: Path, file: str, text: str) -> None:
    assert text in (source / file).read_text(encoding="utf-8")
