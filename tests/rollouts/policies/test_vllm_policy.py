"""What is asked of vLLM and what is made of its answers, with a stand-in for the engine: it needs a CUDA GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from transformers import Qwen3Config

from agentforge.data import chat_template
from agentforge.errors import UserError
from agentforge.models.locate_model import ModelLocation
from agentforge.recipe.rollouts_section import VLLM, Rollouts
from agentforge.rollouts.environment_pool import EnvironmentPool
from agentforge.rollouts.play import play
from agentforge.rollouts.policies.base import Sampling
from agentforge.rollouts.policies.open_policy import open_policy
from agentforge.rollouts.policies.vllm_policy import VLLMPolicy, refuse_unknown_model
from agentforge.rollouts.scheduler import Task
from tests.data.small_tokenizers import chatml_tokenizer
from tests.rollouts.players import TOYS

PLAYED = Rollouts(engine="vllm")


class Engine:
    """Writes ``Action: 1`` and the stop token, or as much of it as there is room for."""

    made: dict[str, Any]
    asked: list[tuple[list[dict[str, Any]], list[Any], dict[str, Any]]]

    def __init__(self, **options: Any) -> None:
        type(self).made, type(self).asked = options, []
        self.tokenizer = chatml_tokenizer()
        chat_template.install_template(self.tokenizer)
        self.waiting: list[Any] = []
        self.idle = False
        self.llm_engine = SimpleNamespace(
            model_config=SimpleNamespace(max_model_len=300), add_request=self.add_request, step=self.step
        )

    def generate(self, prompts: list[dict[str, Any]], settings: list[Any], **options: Any) -> list[Any]:
        self.asked.append((prompts, settings, options))
        line = [*self.tokenizer.encode("Action: 1"), self.tokenizer.eos_token_id]
        return [self.output("", line[: one.max_tokens]) for one in settings]

    def output(self, name: str, ids: list[int]) -> Any:
        logprobs = [{i: SimpleNamespace(logprob=-0.25)} for i in ids]
        written = SimpleNamespace(token_ids=tuple(ids), logprobs=logprobs, finish_reason="stop")
        return SimpleNamespace(request_id=name, finished=True, outputs=[written])

    def add_request(self, name: str, prompt: dict[str, Any], settings: Any, lora_request: Any = None) -> str:
        assert settings.output_kind == "final"
        self.waiting.append((name, prompt, settings, lora_request))
        return name

    def step(self) -> list[Any]:
        """Nothing at first, then the newest request: none waits for an older one."""
        self.idle = not self.idle
        if self.idle:
            return []
        name, prompt, settings, lora = self.waiting.pop()
        (output,) = self.generate([prompt], [settings], lora_request=lora)
        return [self.output(name, list(output.outputs[0].token_ids))]


@pytest.fixture
def fake_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    vllm, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    vllm.LLM, vllm.SamplingParams = Engine, SimpleNamespace  # type: ignore[attr-defined]
    request.LoRARequest = lambda *words: words  # type: ignore[attr-defined]
    parameters = ModuleType("vllm.sampling_params")
    parameters.RequestOutputKind = SimpleNamespace(FINAL_ONLY="final")  # type: ignore[attr-defined]
    for module in (vllm, lora, request, parameters):
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def place(tmp_path: Path) -> ModelLocation:
    chatml_tokenizer().save_pretrained(tmp_path)
    Qwen3Config().save_pretrained(tmp_path)
    return ModelLocation("hf", str(tmp_path), "base", template="auto")


@pytest.mark.usefixtures("fake_vllm")
def test_episodes_are_what_the_engine_was_given_and_gave(place: ModelLocation) -> None:
    policy = open_policy(place, 300, Rollouts(engine="vllm", vllm=VLLM(tensor_parallel=2, gpu_memory_utilization=0.5)))
    assert isinstance(policy, VLLMPolicy) and policy.context_length == 300
    assert (Engine.made["tensor_parallel_size"], Engine.made["gpu_memory_utilization"]) == (2, 0.5)
    assert Engine.made["logprobs_mode"] == "processed_logprobs" and Engine.made["enable_prefix_caching"]
    with EnvironmentPool(TOYS) as pool:
        sampling = Sampling(32, temperature=0.7, top_p=0.9, seed=3)
        episodes = play(policy, pool, [Task("count", 3), Task("add", 1)], sampling=sampling)
    assert [episode.success for episode in episodes] == [False, True]
    asked = [(prompt[0]["prompt_token_ids"], settings[0], options) for prompt, settings, options in Engine.asked]
    assert [ids for ids, _, _ in asked[:2]] == [episodes[1].prompt_ids, episodes[0].prompt_ids], "the newest first"
    assert len({one.seed for _, one, _ in asked}) == len(asked) == sum(len(episode.turns) for episode in episodes)
    assert all(options["lora_request"] is None for _, _, options in asked)
    assert {(one.temperature, one.top_p, one.logprobs) for _, one, _ in asked} == {(0.7, 0.9, 0)}
    assert all(one.ignore_eos and one.stop_token_ids == policy.stop_ids for _, one, _ in asked)
    start = episodes[0].turns[1].start
    assert episodes[0].prompt_ids + episodes[0].token_ids[:start] in [ids for ids, _, _ in asked]
    assert {p for p, m in zip(episodes[0].logprobs, episodes[0].mask, strict=True) if m} == {-0.25}
    assert episodes[1].turns[0].text == "Action: 1"


@pytest.mark.usefixtures("fake_vllm")
def test_an_adapter_goes_with_every_request(place: ModelLocation, tmp_path: Path) -> None:
    policy = open_policy(
        ModelLocation("adapter", str(tmp_path), "lora", base=str(tmp_path), template="auto"), rollouts=PLAYED
    )
    assert Engine.made["model"] == str(tmp_path) and Engine.made["enable_lora"]
    assert policy.chat([{"role": "user", "content": "?"}], sampling=Sampling(4)).stopped is False
    assert Engine.asked[0][2]["lora_request"] == ("lora", 1, str(tmp_path))


@pytest.mark.usefixtures("fake_vllm")
def test_a_model_of_our_own_is_not_vllms(place: ModelLocation) -> None:
    config = {"model_type": "adamba"}
    with pytest.raises(UserError, match="vLLM does not know the models of adamba; leave it out"):
        refuse_unknown_model(config)
    refuse_unknown_model(Qwen3Config().to_dict())
    refuse_unknown_model({"model_type": "falcon_h1", "base_hidden_size": 2048})


def test_without_vllm_it_is_said_how_to_get_it(place: ModelLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"pip install agentforge-train\[vllm\]"):
        open_policy(place, rollouts=PLAYED)
