"""How a model family writes conversations: found by rendering its chat template, not by its name."""
