"""transformers' own tests of `generate`, over AdambaForCausalLM."""

from __future__ import annotations

from transformers import GenerationMixin

from agentforge.systems.adamba.modeling.configuration import AdambaConfig
from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM
from tests.systems.adamba.training.tiny_adamba import FALCON
from tests.systems.generation_tests import GenerationTest, SmallModel


def small() -> AdambaConfig:
    return AdambaConfig(**FALCON | {"num_hidden_layers": 2, "bos_token_id": 2})


class AdambaGenerationTest(GenerationTest):
    __test__ = True
    all_generative_model_classes = (AdambaForCausalLM,)
    has_attentions = True

    def setUp(self) -> None:
        self.model_tester = SmallModel(small)

    def _get_conv_state_shape(self, batch_size: int, config: AdambaConfig) -> tuple[int, ...]:
        channels = config.mamba_d_ssm + 2 * config.mamba_n_groups * config.mamba_d_state
        return batch_size, channels, config.mamba_d_conv

    def _get_recurrent_state_shape(self, batch_size: int, config: AdambaConfig) -> tuple[int, ...]:
        return batch_size, config.mamba_n_heads, config.mamba_d_head, config.mamba_d_state

    def test_inherits_generation_mixin(self) -> None:
        self.assertTrue(issubclass(AdambaForCausalLM, GenerationMixin))  # through FalconH1, where it looks one step up
