"""How a Cognate is opened, which transformers alone does not know. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentforge.systems.cognate.checkpoint_types import OWN_TYPE


def usage(config: Mapping[str, Any], path: str, adapter: bool) -> str:
    """Return Markdown on how a Cognate, or an adapter on one, is opened.

    Args:
        config: fields of the model's config.json; of an adapter, its base's.
        path: a directory or a Hub id.
        adapter: it is a PEFT adapter.
    """
    package, loader = ("peft", "AutoPeftModelForCausalLM") if adapter else ("transformers", "AutoModelForCausalLM")
    return f"""Import agentforge first. The model type `{OWN_TYPE}` is agentforge's own; transformers alone stops with
"model type `{OWN_TYPE}` but Transformers does not recognize this architecture".

```python
import agentforge.systems.cognate.auto  # registers {OWN_TYPE} with transformers' Auto classes
from {package} import {loader}

model = {loader}.from_pretrained("{path}")
```

{_thinking(config)}"""


def _thinking(config: Mapping[str, Any]) -> str:
    """Return what a reader must know of how long the model thinks."""
    iterations = int(config.get("max_recursions", 3))
    if config.get("halting") == "none" or iterations < 2:
        return f"It always thinks in {iterations} iteration{'s' if iterations > 1 else ''} about each token."
    name, threshold = config.get("specialisation"), config.get("exit_threshold")
    own = f"`{threshold:g}`" if threshold is not None else "`None`"
    this = f"This is the *{name}* specialisation, with {own}." if name else f"This model has {own}."
    return f"""The argument `exit_threshold` of the model and of `generate` says how long it thinks about each token:
0.95 thinks long, 0.5 answers soon, `None` always takes all {iterations} iterations. {this}"""
