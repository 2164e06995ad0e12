"""A tiny model that has learnt a few conversations by heart: what serving, evaluation and export talk to in tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

# Before torch is imported. The processes that tests start and compare with have one thread too, and other threads add
# up in another order.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what a test breaks into pytest's report, from which `benchmarks.faults` makes its table."""
    for item in items:
        for mark in item.iter_markers("fault"):
            what = dict(zip(("fault", "where", "holds"), mark.args, strict=True))
            item.user_properties += [*what.items(), ("times", mark.kwargs.get("times", 1))]


BASH = {
    "type": "function",
    "function": {
        "name": "bash",
        "description": "Run a command",
        "parameters": {
            "type": "object",
            "properties": {"command": {"type": "string"}},
            "required": ["command"],
            "additionalProperties": False,
        },
    },
}
THINK = {
    "type": "function",
    "function": {
        "name": "think",
        "description": "Think",
        "parameters": {"type": "object", "properties": {"thought": {"type": "string"}}, "required": ["thought"]},
    },
}
TOOLS = [BASH, THINK]
SYSTEM = {"role": "system", "content": "You are AJ."}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


LEARNT: list[list[dict[str, Any]]] = [
    [
        SYSTEM,
        {"role": "user", "content": "Say seven"},
        {"role": "assistant", "content": "", "tool_calls": [call("bash", command="echo seven")]},
        {"role": "tool", "name": "bash", "content": "seven"},
        {"role": "assistant", "content": "It says seven – fertig 🙂."},
    ],
    [SYSTEM, {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello, I am AJ."}],
]


@pytest.fixture(scope="session")
def learnt_conversations() -> list[list[dict[str, Any]]]:
    return LEARNT


@pytest.fixture(scope="session")
def two_tools() -> list[dict[str, Any]]:
    return TOOLS


@pytest.fixture(scope="session")
def talking_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 of 64 x 2 layers and its tokenizer, trained until it repeats `LEARNT` greedily."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from agentforge.data import chat_template
    from agentforge.data.tokenizer import train_tokenizer

    torch.manual_seed(0)
    text = Path(os.__file__).read_text(encoding="utf-8")
    rule = ("=" * 80 + "\n") * 100  # gives a token of more than 32 bytes, which llama-cpp-python's own decoder loses
    tokenizer = train_tokenizer([text, rule, *(str(conversation) for conversation in LEARNT)], 700)
    chat_template.install_template(tokenizer)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    rows = [chat_template.encode(tokenizer, messages, TOOLS) for messages in LEARNT]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(200):
        losses = []
        for row in rows:
            ids, mask = torch.tensor([row.input_ids]), torch.tensor([row.assistant_masks])
            losses.append(model(input_ids=ids, labels=ids.masked_fill(mask == 0, -100)).loss)
        loss = torch.stack(losses).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss.item() < 2e-3:
            break
    assert loss.item() < 2e-2, "the fixture's model has not learnt its lines"
    directory = tmp_path_factory.mktemp("talking") / "checkpoint"
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def talking_gguf(talking_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a GGUF in its own precision; skips where llama.cpp is not set up."""
    pytest.importorskip("llama_cpp")
    from agentforge.data.chat_template import serving_template
    from agentforge.data.tokenizer import load_tokenizer
    from agentforge.errors import UserError
    from agentforge.export.convert import conversion_view, convert, plan_conversion
    from agentforge.export.llama_cpp import converter_source
    from agentforge.models.checkpoint import Checkpoint

    try:
        tree = converter_source()
    except UserError as error:
        pytest.skip(str(error))
    directory = tmp_path_factory.mktemp("gguf")
    plan = plan_conversion(Checkpoint(talking_checkpoint).config, tree)
    template = serving_template(load_tokenizer(talking_checkpoint))
    conversion_view(talking_checkpoint, directory / "view", plan, template)
    convert(directory / "view", directory / "talking.gguf", "float32", plan)
    return directory / "talking.gguf"
