"""What is asked of vLLM and what is made of its answers, with a stand-in for the engine: it needs a CUDA GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from agentforge.data import chat_template
from agentforge.errors import UserError
from agentforge.models.locate_model import ModelLocation
from agentforge.rollouts.environment_pool import EnvironmentPool
from agentforge.rollouts.play import play
from agentforge.rollouts.policies.base import Sampling
from agentforge.rollouts.policies.open_policy import open_policy
from agentforge.rollouts.policies.vllm_policy import VLLMPolicy
from agentforge.rollouts.scheduler import Task
from tests.data.small_tokenizers import chatml_tokenizer
from tests.rollouts.players import TOYS


class Engine:
    """Writes ``Action: 1`` and the stop token, or as much of it as there is room for."""

    made: dict[str, Any]
    asked: list[tuple[list[dict[str, Any]], list[Any], dict[str, Any]]]

    def __init__(self, **options: Any) -> None:
        type(self).made, type(self).asked = options, []
        self.tokenizer = chatml_tokenizer()
        chat_template.install_template(self.tokenizer)
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=300))

    def generate(self, prompts: list[dict[str, Any]], settings: list[Any], **options: Any) -> list[Any]:
        self.asked.append((prompts, settings, options))
        line = [*self.tokenizer.encode("Action: 1"), self.tokenizer.eos_token_id]
        written = [tuple(line[: one.max_tokens]) for one in settings]
        return [
            SimpleNamespace(
                outputs=[SimpleNamespace(token_ids=ids, logprobs=[{i: SimpleNamespace(logprob=-0.25)} for i in ids])]
            )
            for ids in written
        ]


@pytest.fixture
def fake_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    vllm, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    vllm.LLM, vllm.SamplingParams = Engine, SimpleNamespace  # type: ignore[attr-defined]
    request.LoRARequest = lambda *words: words  # type: ignore[attr-defined]
    for module in (vllm, lora, request):
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def place(tmp_path: Path) -> ModelLocation:
    chatml_tokenizer().save_pretrained(tmp_path)
    return ModelLocation("hf", str(tmp_path), "base", template="auto")


@pytest.mark.usefixtures("fake_vllm")
def test_episodes_are_what_the_engine_was_given_and_gave(place: ModelLocation) -> None:
    policy = open_policy(place, 300, engine="vllm")
    assert isinstance(policy, VLLMPolicy) and policy.context_length == 300
    assert Engine.made["logprobs_mode"] == "processed_logprobs" and Engine.made["enable_prefix_caching"]
    with EnvironmentPool(TOYS) as pool:
        sampling = Sampling(32, temperature=0.7, top_p=0.9, seed=3)
        episodes = play(policy, pool, [Task("count", 3), Task("add", 1)], sampling=sampling)
    assert [episode.success for episode in episodes] == [False, True]
    prompts, settings, options = Engine.asked[0]
    assert [prompt["prompt_token_ids"] for prompt in prompts] == [episode.prompt_ids for episode in episodes]
    assert len(prompts) == 2 and len({one.seed for one in settings}) == 2 and options["lora_request"] is None
    assert {(one.temperature, one.top_p, one.logprobs) for one in settings} == {(0.7, 0.9, 0)}
    second = Engine.asked[1][0][0]["prompt_token_ids"]
    start = episodes[0].turns[1].start
    assert second == episodes[0].prompt_ids + episodes[0].token_ids[:start]
    assert {p for p, m in zip(episodes[0].logprobs, episodes[0].mask, strict=True) if m} == {-0.25}
    assert episodes[1].turns[0].text == "Action: 1"


@pytest.mark.usefixtures("fake_vllm")
def test_an_adapter_goes_with_every_request(place: ModelLocation, tmp_path: Path) -> None:
    policy = open_policy(
        ModelLocation("adapter", str(tmp_path), "lora", base="ORG/BASE", template="auto"), engine="vllm"
    )
    assert Engine.made["model"] == "ORG/BASE" and Engine.made["enable_lora"]
    assert policy.chat([{"role": "user", "content": "?"}], sampling=Sampling(4)).stopped is False
    assert Engine.asked[0][2]["lora_request"] == ("lora", 1, str(tmp_path))


def test_without_vllm_it_is_said_how_to_get_it(place: ModelLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"pip install agentforge-train\[vllm\]"):
        open_policy(place, engine="vllm")
