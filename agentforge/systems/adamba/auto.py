"""Import this module, and transformers' Auto classes know Adamba: ``import agentforge.systems.adamba.auto``."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from agentforge.systems.adamba.modeling.configuration import AdambaConfig
from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM, AdambaModel

AutoConfig.register(AdambaConfig.model_type, AdambaConfig)
AutoModel.register(AdambaConfig, AdambaModel)
AutoModelForCausalLM.register(AdambaConfig, AdambaForCausalLM)
