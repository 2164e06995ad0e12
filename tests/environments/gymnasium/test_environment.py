"""Games of gymnasium in text, on the real package; none of them draws anything but characters."""

from __future__ import annotations

from random import Random
from typing import Any, ClassVar

import gymnasium
import pytest

from agentforge.environments.registry import check_options, make
from agentforge.environments.splits import task_ids
from agentforge.errors import UserError
from tests.environments.playing import baseline, play, same_in_every_process

LAKE: dict[str, Any] = {"options": {"is_slippery": False}, "actions": ["left", "down", "right", "up"]}
WAY = ["down", "down", "right", "right", "down", "right"]


class Echo(gymnasium.Env[str, str]):
    """Text in both directions."""

    observation_space = gymnasium.spaces.Text(20)
    action_space = gymnasium.spaces.Text(20)
    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.word = "".join(self.np_random.choice(list("abc"), 3))
        return self.word, {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "done", 0.0, True, False, {"success": action == self.word}


gymnasium.register("AgentforgeEcho-v0", entry_point=Echo)


def test_a_lake_is_crossed() -> None:
    environment = make("gymnasium:FrozenLake-v1", LAKE)
    assert environment.reset(0, 5) == "[S]FFF\nFHFH\nFFFH\nHFFG", (
        "the place is in brackets, where a terminal has a colour"
    )
    steps = [environment.step(f"Action: {way}") for way in WAY]
    assert steps[-1].terminated and steps[-1].info["success"]
    assert (sum(step.reward for step in steps), steps[-1].info["score"]) == (1.0, 1.0)
    environment.reset(0, 5)
    assert environment.step("Action: right").info["valid_action"]
    fallen = environment.step("Action: down")
    assert fallen.terminated and not fallen.info["success"]
    environment.close()


def test_invalid_actions_cost_turns_and_ours_is_the_limit() -> None:
    environment = make("gymnasium:FrozenLake-v1", {**LAKE, "max_turns": 3})
    steps = play(environment, lambda _: "Action: swim", 0)
    assert [step.info["valid_action"] for step in steps] == [False] * 3
    assert "the actions are left | down | right | up" in steps[0].observation
    assert steps[-1].truncated and not steps[-1].terminated
    assert make("gymnasium:FrozenLake-v1").max_turns == 100, "gymnasium's own limit"


def test_success_as_the_recipe_wants_it() -> None:
    cards = {"actions": ["stick", "hit"], "instructions": "You play Blackjack."}
    won = [play(make("gymnasium:Blackjack-v1", cards), lambda _: "Action: stick", n)[-1] for n in range(30)]
    assert {step.info["success"] for step in won} == {True, False}
    assert all(step.info["success"] == (step.reward > 0) for step in won)
    draws = play(make("gymnasium:Blackjack-v1", {**cards, "success": "terminated"}), lambda _: "Action: stick", 0)
    assert draws[-1].info["success"]
    graded = make("gymnasium:Blackjack-v1", {**cards, "returns": [-1, 1]})
    assert graded.graded
    assert {play(graded, lambda _: "Action: stick", n)[-1].info["score"] for n in range(30)} >= {0.0, 1.0}
    pole = make("gymnasium:CartPole-v1", {"success": 5, "max_turns": 200})
    assert pole.reset(0, 0).startswith("[")
    assert play(pole, baseline("random"), 0)[-1].info["success"]


def test_text_in_both_directions() -> None:
    environment = make("gymnasium:AgentforgeEcho-v0")
    word = environment.reset(0, 3)
    assert environment.step(f"Action: {word}").info["success"]
    assert environment.reset(0, 4) != word or environment.reset(0, 5) != word
    assert not environment.step("Action: " + "z" * 30).info["valid_action"]
    assert environment.baselines == ()


def test_what_may_not_be_done_now_is_not_listed() -> None:
    """Taxi's info has a mask of the actions that change something."""
    environment = make("gymnasium:Taxi-v4", {"actions": ["south", "north", "east", "west", "pick", "drop"]})
    environment.reset(0, 1)
    step = environment.step(environment.baseline("random", Random(0)))
    assert set(step.info["available_actions"]) < {"south", "north", "east", "west", "pick", "drop"}


def test_seed_and_task_decide() -> None:
    assert same_in_every_process("gymnasium:Blackjack-v1", {}, range(4))
    environment = make("gymnasium:Blackjack-v1")
    assert len({environment.reset(0, task) for task in range(10)}) > 3
    train, reserved = task_ids(environment, "train", 50), task_ids(environment, "eval", 50)
    assert not set(train) & set(reserved)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("FrozenLak-v1", {}, "gymnasium has no 'FrozenLak-v1'; did you mean 'FrozenLake-v1'?"),
        ("FrozenLake-v1", {"options": {"slippery": 1}}, "cannot be made"),
        ("FrozenLake-v1", {"actions": ["left"]}, "actions must name the 4 actions"),
        ("FrozenLake-v1", {"success": "won"}, "success is terminated or a number, not 'won'"),
        ("FrozenLake-v1", {"returns": [1, 0]}, "the smaller number first"),
        ("FrozenLake-v1", {"options": 3}, "options must be arguments of gymnasium.make"),
        ("minigrid:MiniGrid-Empty-5x5-v0", {}, "is no text"),
        ("no_such_package:Game-v0", {}, "cannot be made: No module named 'no_such_package'"),
    ],
)
def test_what_is_wrong_is_said(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        make(f"gymnasium:{name}", options)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_family_needs_a_name() -> None:
    with pytest.raises(UserError, match="'gymnasium' needs a name behind a colon, as in gymnasium:NAME"):
        check_options({"gymnasium": {}})
    with pytest.raises(UserError, match="did you mean 'gymnasium:Taxi-v4'"):
        check_options({"gymnasim:Taxi-v4": {}})
    with pytest.raises(UserError, match="has no option 'action'; did you mean 'actions'"):
        check_options({"gymnasium:Taxi-v4": {"action": []}})
