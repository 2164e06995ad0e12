"""How an Adamba is opened that transformers alone does not know. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentforge.systems.adamba.checkpoint_types import OWN_TYPE


def usage(config: Mapping[str, Any], path: str, adapter: bool) -> str | None:
    """Return Markdown on how a nanochat graft, or an adapter on one, is opened; None: it is a FalconH1 to transformers.

    Args:
        config: fields of the model's config.json; of an adapter, its base's.
        path: a directory or a Hub id.
        adapter: it is a PEFT adapter.
    """
    if config.get("model_type") != OWN_TYPE:
        return None
    package, loader = ("peft", "AutoPeftModelForCausalLM") if adapter else ("transformers", "AutoModelForCausalLM")
    return f"""Import agentforge first. The model type `{OWN_TYPE}` is agentforge's own; transformers alone stops with
"model type `{OWN_TYPE}` but Transformers does not recognize this architecture".

```python
import agentforge.systems.adamba.auto  # registers {OWN_TYPE} with transformers' Auto classes
from {package} import {loader}

model = {loader}.from_pretrained("{path}")
```"""
