"""Import this module, and transformers' Auto classes know Cognate: ``import agentforge.systems.cognate.auto``."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from agentforge.systems.cognate.modeling.configuration import CognateConfig
from agentforge.systems.cognate.modeling.modeling import CognateForCausalLM, CognateModel

AutoConfig.register(CognateConfig.model_type, CognateConfig)
AutoModel.register(CognateConfig, CognateModel)
AutoModelForCausalLM.register(CognateConfig, CognateForCausalLM)
