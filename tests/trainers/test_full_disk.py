"""A disk that fills up while a checkpoint is saved: one sentence, the checkpoint before stays, the next run goes on."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from agentforge.artifacts import read_manifest
from agentforge.errors import MachineRefused
from agentforge.trainers import guarded_trainer
from agentforge.trainers.guarded_trainer import GuardedTrainer
from agentforge.trainers.train import train
from tests.trainers.conftest import MakeRecipe
from tests.trainers.test_train import digest, twin


@pytest.mark.fault("the disk is full", "train, while a checkpoint is saved", "the same weights after more space")
@pytest.mark.parametrize("when", ["weights", "optimiser", "seal"])
def test_the_checkpoint_before_stays(make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    recipe = make_recipe("unbroken", "pretrain", max_steps=6, save_steps=2)
    whole = train(recipe)
    victim = twin(recipe, "full")

    def full(self: GuardedTrainer, *args: Any, original: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        if when == "seal":
            patched.setattr(guarded_trainer, "seal", sealing_fails_at(4))
        else:
            name = {"weights": "_save", "optimiser": "_save_optimizer_and_scheduler"}[when]
            original = getattr(GuardedTrainer, name)
            patched.setattr(GuardedTrainer, name, lambda self, *a, **k: full(self, *a, original=original, **k))
        with pytest.raises(MachineRefused, match="no space is left on the disk"):
            train(victim)
    partial = victim.trained.with_name(f".{victim.trained.name}.partial")
    assert [c.parent.name for c in partial.glob("checkpoint-*/complete.json")] == ["checkpoint-2"]
    assert digest(train(victim)) == digest(whole)
    assert read_manifest(victim.trained)["metrics"]["tokens"] == read_manifest(whole)["metrics"]["tokens"]


def sealing_fails_at(step: int) -> Any:
    seal = guarded_trainer.seal

    def sealing(checkpoint: Path, *, world_size: int) -> None:
        if checkpoint.name == f"checkpoint-{step}":
            raise OSError(errno.ENOSPC, "No space left on device")
        seal(checkpoint, world_size=world_size)

    return sealing
