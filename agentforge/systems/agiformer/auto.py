"""Import this module, and transformers' Auto classes know AGIFORMER: ``import agentforge.systems.agiformer.auto``."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from agentforge.systems.agiformer.modeling.causal_lm import AgiformerForCausalLM
from agentforge.systems.agiformer.modeling.configuration import AgiformerConfig
from agentforge.systems.agiformer.modeling.modeling import AgiformerModel
from agentforge.systems.agiformer.tokenizer import AgiformerTokenizer

AutoConfig.register(AgiformerConfig.model_type, AgiformerConfig)
AutoModel.register(AgiformerConfig, AgiformerModel)
AutoModelForCausalLM.register(AgiformerConfig, AgiformerForCausalLM)
AutoTokenizer.register(AgiformerConfig, slow_tokenizer_class=AgiformerTokenizer)
