"""transformers' own tests of `generate`, over CognateForCausalLM."""

from __future__ import annotations

from agentforge.systems.cognate.modeling.cache import CognateCache
from agentforge.systems.cognate.modeling.configuration import CognateConfig
from agentforge.systems.cognate.modeling.modeling import CognateForCausalLM
from tests.systems.generation_tests import GenerationTest, SmallModel


def small() -> CognateConfig:
    return CognateConfig(
        vocab_size=99, hidden_size=32, intermediate_size=37, num_prelude_layers=1, num_core_layers=1,
        num_attention_heads=2, head_dim=16, sliding_window=6, memory_head_dim=8, persistent_tokens=2, gate_rank=4,
        max_recursions=2, micro_steps=1, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip


class CognateGenerationTest(GenerationTest):
    __test__ = True
    all_generative_model_classes = (CognateForCausalLM,)

    def setUp(self) -> None:
        self.model_tester = SmallModel(small)

    def _check_past_key_values_for_generate(
        self, batch_size: int, past_key_values: CognateCache, seq_length: int, config: CognateConfig
    ) -> None:
        # a slot for each run of a layer, where transformers expects one for each layer
        self.assertEqual(past_key_values.get_seq_length(), seq_length)
        self.assertEqual(len(past_key_values), config.layer_calls)
        kept = min(seq_length, config.sliding_window - 1)
        wanted = (batch_size, config.num_attention_heads, kept, config.head_dim)
        for slot in past_key_values.slots:
            self.assertEqual([tuple(tensor.shape) for tensor in slot.entries()], [wanted, wanted])
