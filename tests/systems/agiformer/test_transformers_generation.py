"""transformers' own tests of `generate`, over AgiformerForCausalLM."""

from __future__ import annotations

import torch

from agentforge.systems.agiformer.modeling.cache import AgiformerCache, over_rows
from agentforge.systems.agiformer.modeling.causal_lm import AgiformerForCausalLM
from agentforge.systems.agiformer.modeling.configuration import AgiformerConfig
from tests.systems.generation_tests import GenerationTest, SmallModel


def small() -> AgiformerConfig:
    return AgiformerConfig(
        vocab_size=99, hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=2,
        patch_size=3, window_size=4, thinking_steps=2, byte_window=6, ngram_sizes=[2], ngram_buckets=64,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip


class AgiformerGenerationTest(GenerationTest):
    __test__ = True
    all_generative_model_classes = (AgiformerForCausalLM,)

    def setUp(self) -> None:
        self.model_tester = SmallModel(small)

    def _check_past_key_values_for_generate(
        self, batch_size: int, past_key_values: AgiformerCache, seq_length: int, config: AgiformerConfig
    ) -> None:
        # one state of the whole text, where transformers expects keys and values of each layer
        assert past_key_values.state is not None
        self.assertEqual(past_key_values.get_seq_length(), seq_length)
        self.assertEqual(past_key_values.state.seen.tolist(), [seq_length] * batch_size)
        self.assertEqual(len(past_key_values.state.layers), config.num_hidden_layers)

    def _check_caches_are_equal(self, cache1: AgiformerCache, cache2: AgiformerCache) -> None:
        found: list[list[torch.Tensor]] = [[], []]
        for tensors, cache in zip(found, (cache1, cache2), strict=True):
            over_rows(cache.state, tensors.append)
        torch.testing.assert_close(*found)
