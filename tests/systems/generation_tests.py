"""transformers' own tests of `generate`, as our three systems run them: only from a checkout of transformers.

They read what a model class says of itself, and leave out what it does not claim. Two of them ours claim less than they
do, so these are run all the same.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
from transformers import PreTrainedConfig

from tests.systems.transformers_tests import load_generation

FOUND = load_generation()
if isinstance(FOUND, str):
    pytest.skip(FOUND, allow_module_level=True)
Mixin: Any = FOUND


class SmallModel:
    """A small model's config, and inputs for it, as the mixin asks for them."""

    batch_size, seq_length = 3, 7

    def __init__(self, make: Callable[[], PreTrainedConfig]) -> None:
        self.make = make

    def prepare_config_and_inputs_for_common(self) -> tuple[PreTrainedConfig, dict[str, Any]]:
        config = self.make()
        ids = torch.randint(3, config.vocab_size, (self.batch_size, self.seq_length))
        return config, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class GenerationTest(Mixin, unittest.TestCase):  # type: ignore[misc]
    """Of a model with a memory, whose attention weights are no output."""

    __test__ = False  # the systems' own are

    all_generative_model_classes: tuple[type, ...]
    has_attentions = False
    model_tester: SmallModel

    def test_left_padding_compatibility(self) -> None:
        # transformers takes a model without attention weights for one that cannot be padded
        self.has_attentions = True
        super().test_left_padding_compatibility()

    def test_recurrent_layers_mask_padding_on_continued_forward(self) -> None:
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        if getattr(config, "layer_types", None) is None:
            config.layer_types = ["hybrid"]  # whoever names none is taken for a model without a memory
        given = {"return_value": (config, inputs)}
        with patch.object(self.model_tester, "prepare_config_and_inputs_for_common", **given):
            super().test_recurrent_layers_mask_padding_on_continued_forward()
