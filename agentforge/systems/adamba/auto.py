"""Import this module, and transformers' Auto classes know Adamba: ``import agentforge.systems.adamba.auto``."""

from transformers import AutoConfig, AutoModelForCausalLM

from agentforge.systems.adamba.modeling.configuration import AdambaConfig
from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM

AutoConfig.register(AdambaConfig.model_type, AdambaConfig)
AutoModelForCausalLM.register(AdambaConfig, AdambaForCausalLM)
