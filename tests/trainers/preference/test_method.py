"""Pairs and labels from episodes: which turns are compared, and that nothing of the environment is ever trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from agentforge.artifacts import read_manifest
from agentforge.data.tokenizer import load_tokenizer
from agentforge.environments.splits import split_of, task_ids
from agentforge.errors import CheckRefused, UserError
from agentforge.recipe.loading import load_recipe
from agentforge.rollouts.environment_pool import EnvironmentPool
from agentforge.rollouts.episode_store import EPISODES, write_episodes
from agentforge.rollouts.episodes import Episode
from agentforge.rollouts.play import play
from agentforge.rollouts.policies.base import Sampling
from agentforge.rollouts.policies.transformers_policy import TransformersPolicy
from agentforge.rollouts.scheduler import Task
from agentforge.trainers.preference.kto import EpisodeCollator, KTOTrainer, kl_partners
from agentforge.trainers.preference.method import PreferenceMethod
from agentforge.trainers.preference.pairs import ALIKE, REPEATED, labelled_episodes, tokens_of, turn_pairs
from agentforge.trainers.train import train
from tests.trainers.conftest import MakeRecipe
from tests.trainers.tiny import LORA
from tests.trainers.toys import Colours

OPTIONS = {"colours": {"class": "tests.trainers.toys:Colours", "colours": 1}}
PlayToy = Callable[..., list[Episode]]


@pytest.fixture(scope="module")
def play_toy(toy_base: Path) -> PlayToy:
    """Return a function that plays every one of some tasks several times with a model."""

    def played(model: Path = toy_base, samples: int = 24, tasks: int = 6) -> list[Episode]:
        policy = TransformersPolicy(AutoModelForCausalLM.from_pretrained(model), load_tokenizer(toy_base), "toy")
        ids = task_ids(Colours(), "train", tasks)
        wanted = [Task("colours", task, sample=sample) for task in ids for sample in range(samples)]
        with EnvironmentPool(OPTIONS) as pool:
            return play(policy, pool, wanted, sampling=Sampling(4, 1.0), batch_size=48)

    return played


@pytest.fixture(scope="module")
def episodes(play_toy: PlayToy) -> list[Episode]:
    return play_toy()


def success(episodes: list[Episode]) -> float:
    return sum(episode.success for episode in episodes) / len(episodes)


def test_a_pair_is_two_turns_behind_one_history(episodes: list[Episode], toy_base: Path) -> None:
    tokenizer = load_tokenizer(toy_base)
    rows, dropped = turn_pairs(episodes, tokenizer, 64)
    assert len(rows) > 10 and set(dropped) <= {"all failures", "more pairs than a task may have", REPEATED}
    behind_the_first = 0
    for row in rows:
        chosen, rejected = (
            [
                (episode, i)
                for episode in episodes
                for i, turn in enumerate(episode.turns)
                if episode.prompt_ids + episode.token_ids[: turn.start] == row["prompt_ids"]
                and episode.token_ids[turn.start : turn.end] == row[key]
            ]
            for key in ("chosen_ids", "rejected_ids")
        )
        assert any(episode.success for episode, _ in chosen) and any(not episode.success for episode, _ in rejected)
        assert row["chosen_ids"] != row["rejected_ids"]
        behind_the_first += chosen[0][1] > 0
    assert behind_the_first, "some differ only in their second turn, and share the first"


def test_pairs_that_are_too_long_and_tasks_that_end_alike_are_counted(episodes: list[Episode], toy_base: Path) -> None:
    tokenizer = load_tokenizer(toy_base)
    rows, dropped = turn_pairs(episodes, tokenizer, 12)
    assert rows == [] and dropped["too long"] > 10
    failures = [episode for episode in episodes if not episode.success]
    assert turn_pairs(failures, tokenizer, 64) == ([], {"all failures": len(failures)})


def test_pairs_that_prefer_nothing_are_counted(episodes: list[Episode], toy_base: Path) -> None:
    """Two episodes with one history, which the environment judged otherwise; and the same pair from two of them."""
    tokenizer = load_tokenizer(toy_base)
    won = next(episode for episode in episodes if episode.success)
    lost = Episode(**(vars(won) | {"success": False}))
    assert turn_pairs([won, lost], tokenizer, 64) == ([], {ALIKE: 1})
    other = next(e for e in episodes if e.task_id == won.task_id and not e.success)
    rows, dropped = turn_pairs([won, other, other], tokenizer, 64)
    assert len(rows) == 1 and dropped == {REPEATED: 1}


def test_sampled_tokens_are_kept_and_foreign_ones_are_made_from_the_conversation(
    episodes: list[Episode], toy_base: Path
) -> None:
    tokenizer = load_tokenizer(toy_base)
    episode = next(e for e in episodes if e.success)
    kept = tokens_of(episode, tokenizer)
    assert kept is not None
    assert (kept.prompt_ids, kept.token_ids, kept.mask) == (episode.prompt_ids, episode.token_ids, episode.mask)
    expert = Episode(**(vars(episode) | {"prompt_ids": [], "token_ids": [], "mask": []}))
    assert tokens_of(expert, tokenizer) == kept, "the same words are the same tokens"
    foreign = Episode(**(vars(episode) | {"token_ids": [5] * len(episode.token_ids)}))
    assert tokens_of(foreign, tokenizer) == kept


def test_what_the_environment_wrote_has_no_gradient_in_kto(episodes: list[Episode], toy_base: Path) -> None:
    tokenizer = load_tokenizer(toy_base)
    rows, dropped = labelled_episodes(episodes, tokenizer, 64)
    assert not dropped and {row["label"] for row in rows} == {True, False}
    examples = [dict(row) for row in rows[:6]]
    for example, partner in zip(examples, kl_partners(6, 6), strict=True):
        example |= {f"KL_{key}": rows[partner][key] for key in ("completion_ids", "completion_masks")}
    assert tokenizer.pad_token_id is not None
    batch = EpisodeCollator(tokenizer.pad_token_id)(examples)
    for prefix in ("", "KL_"):
        for row, example in enumerate(examples):
            expected = [0] * len(example["prompt_ids"]) + example[f"{prefix}completion_masks"]
            mask = batch[f"{prefix}completion_mask"][row].tolist()
            assert mask == expected + [0] * (len(mask) - len(expected))
    assert any(0 in row["completion_masks"] for row in rows)
    assert batch["KL_completion_mask"].shape == batch["KL_input_ids"].shape
    assert torch.equal(batch["label"], torch.tensor([row["label"] for row in examples]))


@pytest.mark.parametrize(
    ("rows", "batch_size", "partners"),
    [
        (5, 2, [1, 0, 3, 2, 3]),  # the last is alone
        (6, 3, [2, 0, 1, 5, 3, 4]),
        (5, 3, [2, 0, 1, 4, 3]),
        (2, 8, [1, 0]),
        (9, 8, [7, 0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_no_row_is_its_own_partner_in_kto(rows: int, batch_size: int, partners: list[int]) -> None:
    assert kl_partners(rows, batch_size) == partners


def test_the_last_row_of_ktos_epoch_has_another_ones_completion(
    make_toy: MakeRecipe, episodes: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its own, its reward is its KL, and its loss is exactly one half whatever the weights are."""
    seen: dict[int, float] = {}
    compute_loss = KTOTrainer.compute_loss

    def spy(self: KTOTrainer, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if len(inputs["input_ids"]) == 1:
            same = inputs["input_ids"].shape == inputs["KL_input_ids"].shape
            seen[self.state.global_step] = same and bool((inputs["input_ids"] == inputs["KL_input_ids"]).all())
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(KTOTrainer, "compute_loss", spy)
    recipe = make_toy("kto", train={"args": {"per_device_train_batch_size": 4, "num_train_epochs": 1, "max_steps": -1}})
    recipe.artifact("episodes").mkdir()
    other = next(e for e in episodes if e.success != episodes[0].success and e.task_id != episodes[0].task_id)
    write_episodes(recipe.artifact("episodes") / EPISODES, [*[episodes[0]] * 2, *[other] * 3])
    train(recipe)
    assert list(seen.values()) == [False]


@pytest.mark.parametrize(("method", "lora"), [("dpo", LORA | {"r": 8}), ("kto", None)])
def test_what_failed_is_done_less(
    make_toy: MakeRecipe, play_toy: PlayToy, episodes: list[Episode], method: str, lora: dict[str, Any] | None
) -> None:
    args = {"max_steps": 30, "per_device_train_batch_size": 16, "learning_rate": 2e-3 if lora is None else 1e-2}
    recipe = make_toy(method, train={"lora": lora, "args": args})
    recipe.artifact("episodes").mkdir()
    write_episodes(recipe.artifact("episodes") / EPISODES, episodes)
    made = train(recipe)
    metrics = read_manifest(made)["metrics"]
    assert metrics["rows"] > 20 and metrics["steps"] == 30 and metrics["trained_tokens"] > 0
    assert not list(made.glob("ref")) and not list(made.glob("*.bin"))
    if lora is None:
        assert success(play_toy(made)) > 2 * success(episodes)
        return
    weights = json.loads((made / "adapter_config.json").read_text())
    assert weights["r"] == 8
    lines = [json.loads(line) for line in (made / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["rewards/accuracies"] > 0.8 > lines[0]["rewards/accuracies"]


@pytest.mark.parametrize(("method", "loss"), [("dpo", "sigmoid"), ("kto", "apo_zero_unpaired")])
def test_the_same_rows_make_the_same_update_however_they_are_cut(
    make_toy: MakeRecipe, episodes: list[Episode], monkeypatch: pytest.MonkeyPatch, method: str, loss: str
) -> None:
    """Five rows are an epoch: as one micro-batch, and as 2, 2 and 1. KTO is without its KL, which is each one's own."""
    all_rows = PreferenceMethod._read_episodes

    def five(self: PreferenceMethod) -> list[dict[str, Any]]:
        rows = all_rows(self)
        bad = [row for row in rows if not row.get("label", False)]
        return [*bad[:4], next(row for row in rows if row.get("label", True) and row not in bad[:4])]

    monkeypatch.setattr(PreferenceMethod, "_read_episodes", five)
    args = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 1e6, "max_steps": 1, "loss_type": loss}
    made = []
    for rows, steps in [(8, 1), (2, 4)]:
        cut = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": steps}
        recipe = make_toy(method, f"{rows}x{steps}", train={"args": args | cut})
        recipe.artifact("episodes").mkdir()
        write_episodes(recipe.artifact("episodes") / EPISODES, episodes)
        made.append(load_file(train(recipe) / "model.safetensors"))
    for name, weight in made[0].items():
        torch.testing.assert_close(made[1][name], weight, atol=1e-6, rtol=0)


def test_episodes_of_reserved_tasks_are_refused(make_toy: MakeRecipe, episodes: list[Episode]) -> None:
    recipe = make_toy("dpo")
    reserved = next(task for task in range(100) if split_of(Colours.id, task) == "eval")
    recipe.artifact("episodes").mkdir()
    write_episodes(recipe.artifact("episodes") / EPISODES, [Episode(**(vars(episodes[0]) | {"task_id": reserved}))])
    with pytest.raises(CheckRefused, match=f"on task {reserved}, which is reserved for evaluation"):
        train(recipe)


def test_episodes_that_prefer_nothing_are_refused(make_toy: MakeRecipe, episodes: list[Episode]) -> None:
    with pytest.raises(UserError, match=r"has no episodes\.parquet; run `agentforge collect`"):
        train(make_toy("dpo"))
    failures = [episode for episode in episodes if not episode.success]
    nothing = rf"nothing to prefer \({len(failures)} all failures\)"
    for method, words in [("dpo", nothing), ("kto", "all .* ended alike")]:
        recipe = make_toy(method)
        recipe.artifact("episodes").mkdir()
        write_episodes(recipe.artifact("episodes") / EPISODES, failures)
        with pytest.raises(CheckRefused, match=words):
            train(recipe)
    with pytest.raises(UserError, match="padding_free has no effect"):
        train(make_toy("dpo", train={"args": {"padding_free": True}}))


@pytest.mark.parametrize("profile", [None, "tiny"])
def test_affine_prefers_among_what_its_own_recipes_have_played_on_the_same_tasks(profile: str | None) -> None:
    sft, dpo, kto = (load_recipe(f"affine/{name}", profile=profile) for name in ("sft", "dpo", "kto"))
    assert dpo.train.episodes == [str(dpo.artifact("episodes")), str(sft.artifact("episodes"))]
    assert kto.train.episodes == dpo.train.episodes[:1]
    assert (dpo.seed, dpo.environments, dpo.collect.episodes) == (sft.seed, sft.environments, sft.collect.episodes)
    assert dpo.model.path == kto.model.path == str(sft.artifact("merged"))
