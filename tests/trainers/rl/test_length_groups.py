"""Rows of like length together: every row once, little padding, and the same numbers as all rows at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from agentforge.trainers.rl.grpo import GRPOTrainer
from agentforge.trainers.rl.length_groups import SMALLEST, SPREAD, LengthGroups
from agentforge.trainers.train import train
from tests.trainers.conftest import MakeRecipe
from tests.trainers.toys import Colours, toy_recipe


def make_mask(rows: list[tuple[int, int]]) -> tuple[torch.Tensor, int]:
    """Return the mask of rows of (prompt, completion) lengths, and the completions' columns."""
    prompt, completion = max(p for p, _ in rows), max(c for _, c in rows)
    mask = torch.zeros(len(rows), prompt + completion, dtype=torch.long)
    for row, (p, c) in enumerate(rows):
        mask[row, prompt - p : prompt + c] = 1
    return mask, completion


@given(rows=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 200)), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_every_token_is_seen_once_and_comes_back_to_its_place(rows: list[tuple[int, int]]) -> None:
    mask, length = make_mask(rows)
    values = torch.arange(mask.numel(), dtype=torch.float).view_as(mask) * mask
    groups = LengthGroups(mask, length)
    seen = [(mask[g.rows, g.columns], values[g.rows, g.columns]) for g in groups]
    assert sum(int(part.sum()) for part, _ in seen) == int(mask.sum())
    joined = groups.join([part[:, part.shape[1] - g.kept :] for (_, part), g in zip(seen, groups, strict=True)])
    assert torch.equal(joined, values[:, -length:])
    for group in list(groups)[:-1]:
        tokens = mask[group.rows].sum(1).sort().values
        assert len(tokens) >= SMALLEST
        assert tokens[SMALLEST:].numel() == 0 or tokens.max() <= max(SPREAD * tokens.min(), tokens[SMALLEST - 1])


def test_short_episodes_are_not_padded_to_long_ones() -> None:
    mask, length = make_mask([(20, 15)] * 30 + [(40, 300)] * 10)
    seen = sum(mask[g.rows, g.columns].numel() for g in LengthGroups(mask, length))
    assert seen == int(mask.sum()) < mask.numel() / 2
    (whole,) = LengthGroups(mask, length, one=True)
    assert mask[whole.rows, whole.columns].shape == mask.shape


@given(rows=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 60)), min_size=1, max_size=40))
@settings(max_examples=40, deadline=None)
def test_where_padding_before_a_row_is_not_harmless_there_is_none(rows: list[tuple[int, int]]) -> None:
    mask, length = make_mask(rows)
    groups = LengthGroups(mask, length, equal_prompts=True)
    for group in groups:
        assert mask[group.rows, group.columns][:, 0].all()
    places = torch.arange(length).expand(len(rows), -1) * mask[:, -length:]
    joined = groups.join([places[g.rows, : g.kept] for g in groups])
    assert torch.equal(joined, places)


def write_learned_positions(directory: Path, toy_base: Path) -> Path:
    """Write a GPT-2: TRL pads prompts on the left and gives no positions, so it read a short one as if further on."""
    tokenizer = AutoTokenizer.from_pretrained(toy_base)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64)
    model = GPT2LMHeadModel(config)
    torch.nn.init.normal_(model.transformer.wpe.weight)  # as large as what tokens bring
    torch.nn.init.normal_(model.transformer.wte.weight)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_an_episode_is_scored_as_if_it_were_alone(
    tmp_path: Path, toy_base: Path, monkeypatch: pytest.MonkeyPatch, positions: str
) -> None:
    """Whatever is computed beside it: open-instruct once let an episode see the one before it in its row."""
    base = toy_base if positions == "rotary" else write_learned_positions(tmp_path / "base", toy_base)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    mixed: list[bool] = []
    original = GRPOTrainer._get_per_token_logps_and_entropies

    def watched(self: Any, model: Any, ids: torch.Tensor, mask: torch.Tensor, keep: int, *a: Any, **k: Any) -> Any:
        found = original(self, model, ids, mask, keep, *a, **k)
        mixed.append(len(set(mask[:, :-keep].sum(1).tolist())) > 1)
        with torch.no_grad():
            for row, tokens in enumerate(mask.bool()):
                own = ids[row][tokens][None]
                logps = model(own).logits[0, :-1].log_softmax(-1).gather(1, own[0, 1:, None])[:, 0]
                written = int(tokens[-keep:].sum())
                seen.append((found[0][row, :written].detach(), logps[-written:] if written else logps[:0]))
        return found

    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", watched)
    environments = {
        "colours": {"class": "tests.trainers.toys:Colours"},
        "long": {"class": f"{__name__}:Wordy"},
    }
    train(toy_recipe(base, tmp_path / "runs", "grpo", environments=environments))
    assert seen and any(mixed)
    for together, alone in seen:
        assert torch.allclose(together, alone, atol=1e-5)


class Wordy(Colours):
    """Its prompts are longer than those of `Colours`."""

    instructions = "say the colour say the colour say the colour"


def test_rows_of_nothing_keep_a_column_of_each() -> None:
    mask = torch.zeros(3, 10, dtype=torch.long)
    (group,) = LengthGroups(mask, 4)
    assert (group.columns, group.kept) == (slice(0, 7), 1)


@pytest.mark.parametrize("method", ["ppo", "grpo"])
def test_a_run_in_groups_is_the_run_of_all_rows_at_once(
    make_toy: MakeRecipe, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Episodes of one and of twelve turns in one rollout."""
    environments = {
        "colours": {"class": "tests.trainers.toys:Colours", "rounds": 1},
        "long": {"class": "tests.trainers.toys:Colours", "rounds": 12},
    }
    sizes: list[int] = []

    def run(name: str, one: bool) -> dict[str, torch.Tensor]:
        def grouped(self: Any, mask: torch.Tensor, length: int) -> LengthGroups:
            groups = LengthGroups(mask, length, one=one)
            sizes.append(len(list(groups)))
            return groups

        monkeypatch.setattr(GRPOTrainer, "length_groups", grouped)
        made = train(make_toy(method, name, environments=environments))
        return load_file(made / "model.safetensors")

    of_groups, at_once = run("groups", False), run("once", True)
    assert max(sizes) > 1
    for name, tensor in at_once.items():
        assert torch.allclose(of_groups[name], tensor, atol=1e-5), name
