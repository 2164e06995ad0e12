"""transformers' own common tests of models, over CognateForCausalLM.

79 tests run. What is skipped:

* by transformers, for want of something here: an accelerator, several, MPS, DeepSpeed, flash attention, kernels
* by transformers, because the model has none of it: attention weights as an output, a tensor-parallel plan, experts,
  sub-configs, learned positions, modules kept in fp32, other heads than the language model's
* `test_causal_lm_loss_honors_shift_labels`, below
"""

from __future__ import annotations

import unittest
from typing import Any

import pytest
import torch
from transformers.models.auto import modeling_auto

import agentforge.systems.cognate.auto  # noqa: F401
from agentforge.systems.cognate.modeling.configuration import CognateConfig
from agentforge.systems.cognate.modeling.modeling import CognateForCausalLM, CognateModel
from tests.systems.transformers_tests import load

FOUND = load()
if isinstance(FOUND, str):
    pytest.skip(FOUND, allow_module_level=True)
ModelTesterMixin, GenerationTesterMixin = FOUND


class SmallCognate:
    """A small Cognate, and inputs for it, as the mixins ask for them."""

    batch_size, seq_length, num_hidden_layers, hidden_size, num_attention_heads = 3, 7, 2, 32, 2

    expected_num_hidden_layers = 4  # the embeddings, one layer of the prelude, two iterations
    is_training = True

    def __init__(self, parent: unittest.TestCase) -> None:
        self.parent = parent

    def get_config(self) -> CognateConfig:
        return CognateConfig(
            vocab_size=99, hidden_size=32, intermediate_size=37, num_prelude_layers=1, num_core_layers=1,
            num_attention_heads=2, head_dim=16, sliding_window=16, memory_head_dim=8, persistent_tokens=2, gate_rank=4,
            max_recursions=2, micro_steps=1, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip

    def prepare_config_and_inputs_for_common(self) -> tuple[CognateConfig, dict[str, Any]]:
        ids = torch.randint(3, 99, (self.batch_size, self.seq_length))
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class CognateModelTest(ModelTesterMixin, GenerationTesterMixin, unittest.TestCase):  # type: ignore[valid-type,misc]
    all_model_classes = (CognateModel, CognateForCausalLM)
    has_attentions = False

    @pytest.fixture(autouse=True)
    def _known_as_a_language_model(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # the mixin makes labels for the classes that transformers' own tables name
        monkeypatch.setitem(modeling_auto.MODEL_MAPPING_NAMES, "cognate", "CognateModel")
        monkeypatch.setitem(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "cognate", "CognateForCausalLM")

    def setUp(self) -> None:
        self.model_tester = SmallCognate(self)

    def test_causal_lm_loss_honors_shift_labels(self) -> None:
        self.skipTest("labels shifted beforehand are for sequence parallelism, but a memory reads a row from its start")
