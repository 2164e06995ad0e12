"""Next-token training of all weights: the Trainer of transformers."""

from __future__ import annotations

from agentforge.trainers.guarded_trainer import GuardedTrainer


class PretrainTrainer(GuardedTrainer):
    """`transformers.Trainer` over packed documents; the loss is the model's own."""
