"""Policies on a real tiny model: what goes in, what comes out, where it stops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from agentforge.data import chat_template
from agentforge.data.tokenizer import load_tokenizer
from agentforge.data.tool_calls import parse_assistant
from agentforge.errors import UserError
from agentforge.models.locate_model import locate_path
from agentforge.rollouts.policies.base import Conversation, Policy, Sampling
from agentforge.rollouts.policies.open_policy import open_policy
from agentforge.rollouts.policies.transformers_policy import TransformersPolicy

GREEDY = Sampling(max_new_tokens=60)


@pytest.fixture(scope="module")
def policy(talking_checkpoint: Path) -> TransformersPolicy:
    opened = open_policy(locate_path(str(talking_checkpoint)))
    assert isinstance(opened, TransformersPolicy)
    return opened


def openings(conversations: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """Every prefix that ends where the assistant must speak, of different lengths."""
    return [c[:i] for c in conversations for i, message in enumerate(c) if message["role"] == "assistant"]


def test_repeats_what_it_has_learnt(policy: Policy, learnt_conversations: Any, two_tools: Any) -> None:
    prompts = openings(learnt_conversations)
    generations = policy.generate([Conversation(messages, two_tools) for messages in prompts], GREEDY)
    turns = [parse_assistant(generation.text) for generation in generations]
    assert turns[0].tool_calls == learnt_conversations[0][2]["tool_calls"]
    assert [turn.content for turn in turns[1:]] == ["It says seven – fertig 🙂.", "Hello, I am AJ."]
    assert all(generation.stopped for generation in generations)


def test_tokens_are_those_of_training(policy: TransformersPolicy, learnt_conversations: Any, two_tools: Any) -> None:
    generation = policy.chat(learnt_conversations[1][:2], two_tools, sampling=GREEDY)
    trained = chat_template.encode(policy.tokenizer, learnt_conversations[1], two_tools)
    written = [*generation.prompt_ids, *generation.token_ids]
    assert written == trained.input_ids[: len(written)]
    assert generation.token_ids == [i for i, m in zip(trained.input_ids, trained.assistant_masks, strict=True) if m]
    assert generation.prompt_tokens == len(generation.prompt_ids)


def test_greedy_matches_a_plain_loop(policy: TransformersPolicy, talking_checkpoint: Path, two_tools: Any) -> None:
    """The slow reference: one forward over everything for each token, no cache, no padding."""
    model = AutoModelForCausalLM.from_pretrained(talking_checkpoint).eval()
    stops = chat_template.stop_token_ids(policy.tokenizer)
    prompts = [
        policy.encode([{"role": "user", "content": text}], two_tools) for text in ("Hello", "What is this about?")
    ]
    completions = policy.complete(prompts, Sampling(max_new_tokens=12))
    for prompt, completion in zip(prompts, completions, strict=True):
        ids = list(prompt)
        with torch.no_grad():
            while len(ids) < len(prompt) + 12:
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
                if ids[-1] in stops:
                    break
        assert completion.token_ids == ids[len(prompt) :]


def test_a_shared_beginning_is_read_once_and_changes_nothing(
    policy: TransformersPolicy, learnt_conversations: Any, two_tools: Any
) -> None:
    prompts = [policy.encode(messages, two_tools) for messages in openings(learnt_conversations)]
    read: list[int] = []

    def count(_: Any, arguments: Any, options: dict[str, Any]) -> None:
        read.append(options["input_ids"].numel())

    hook = policy.model.register_forward_pre_hook(count, with_kwargs=True)
    together = policy.complete(prompts, Sampling(max_new_tokens=10))
    hook.remove()
    assert read[0] > 100 and sum(read) < sum(map(len, prompts)), "the tools are in all three prompts but were read once"
    assert together == [policy.complete([prompt], Sampling(max_new_tokens=10))[0] for prompt in prompts]


@pytest.mark.parametrize("name", ["mistral", "gemma3_text", "mamba2"])
def test_batches_of_other_kinds_of_layers_equal_single_prompts(name: str, talking_checkpoint: Path) -> None:
    """Sliding windows and states cannot skip padding in the middle: they are batched in other ways."""
    from transformers import AutoConfig

    tokenizer = load_tokenizer(talking_checkpoint)
    sizes: dict[str, Any] = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2}
    if name == "mamba2":
        sizes |= {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1, "expand": 2}
    else:
        sizes |= {
            "intermediate_size": 64,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "sliding_window": 8,
        }
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **sizes))
    policy = TransformersPolicy(model, tokenizer, name)
    texts = ["one", "one two three", "one two three four five six", "1 2 3 4 5 6 7 8 9 a b c d"]
    prompts = [policy.encode([{"role": "user", "content": text}]) for text in texts]
    together = policy.complete(prompts, Sampling(max_new_tokens=6))
    assert together == [policy.complete([prompt], Sampling(max_new_tokens=6))[0] for prompt in prompts]


def test_stops_at_max_new_tokens_and_says_so(policy: Policy, learnt_conversations: Any, two_tools: Any) -> None:
    generation = policy.chat(learnt_conversations[1][:2], two_tools, sampling=Sampling(max_new_tokens=2))
    assert len(generation.token_ids) == 2 and not generation.stopped


def test_sampling_follows_the_seed_alone(policy: Policy, two_tools: Any) -> None:
    messages = [{"role": "user", "content": "Tell me of something new"}]

    def draw(seed: int) -> list[int]:
        torch.manual_seed(99)
        return policy.chat(messages, two_tools, sampling=Sampling(16, temperature=3.0, seed=seed)).token_ids

    state = torch.get_rng_state()
    assert draw(1) == draw(1) != draw(2)
    torch.set_rng_state(state)
    policy.chat(messages, sampling=Sampling(4, temperature=1.0))
    assert torch.equal(torch.get_rng_state(), state), "generation must not disturb the caller's random numbers"


def test_streams_the_text_it_returns(policy: Policy, learnt_conversations: Any, two_tools: Any) -> None:
    pieces: list[str] = []
    generation = policy.chat(
        learnt_conversations[0][:4], two_tools, sampling=GREEDY, on_text=lambda text: pieces.append(text) is not None
    )
    assert "".join(pieces) == generation.text == "It says seven – fertig 🙂."
    assert len(pieces) > 2 and not any("\ufffd" in piece for piece in pieces)


def test_a_listener_stops_its_own_row_only(policy: Policy, learnt_conversations: Any, two_tools: Any) -> None:
    conversations = [Conversation(messages, two_tools) for messages in openings(learnt_conversations)]
    heard: dict[int, list[int]] = {row: [] for row in range(len(conversations))}

    def listen(row: int, token: int) -> bool:
        heard[row].append(token)
        return row == 1 and len(heard[row]) == 3

    generations = policy.generate(conversations, GREEDY, listen)
    assert len(generations[1].token_ids) == 3 and not generations[1].stopped
    assert generations[0].stopped and generations[2].stopped
    assert [heard[row] for row in (0, 2)] == [generations[row].token_ids[:-1] for row in (0, 2)]


def test_a_conversation_longer_than_the_context_is_refused(talking_checkpoint: Path) -> None:
    short = open_policy(locate_path(str(talking_checkpoint)), context_length=24)
    with pytest.raises(UserError, match="reads 24"):
        short.chat([{"role": "user", "content": "word " * 50}], sampling=GREEDY)
    generation = short.chat([{"role": "user", "content": "Hello"}], sampling=GREEDY)
    assert generation.prompt_tokens + len(generation.token_ids) <= 24


def test_an_adapter_answers_on_its_base(
    talking_checkpoint: Path, tmp_path: Path, learnt_conversations: Any, two_tools: Any
) -> None:
    from peft import LoraConfig, get_peft_model

    base = AutoModelForCausalLM.from_pretrained(talking_checkpoint)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapted.save_pretrained(tmp_path / "lora")
    load_tokenizer(talking_checkpoint).save_pretrained(tmp_path / "lora")
    location = locate_path(str(tmp_path / "lora"))
    assert (location.kind, location.base) == ("adapter", str(talking_checkpoint))
    # B starts at zero, so the adapter changes nothing: the answer must be the base's
    assert open_policy(location).chat(learnt_conversations[1][:2], two_tools, sampling=GREEDY).text == "Hello, I am AJ."


def test_an_adapter_on_another_base_is_refused(talking_checkpoint: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen3Config, Qwen3ForCausalLM

    wide = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=16,
        )
    )
    get_peft_model(wide, LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": str(talking_checkpoint)})
    )
    with pytest.raises(UserError, match="does not fit the base"):
        open_policy(locate_path(str(tmp_path)))


def test_a_torn_checkpoint_is_refused(talking_checkpoint: Path, tmp_path: Path) -> None:
    for file in talking_checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="is damaged or cut off"):
        open_policy(locate_path(str(tmp_path)))
