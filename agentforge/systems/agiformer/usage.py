"""How an AGIFORMER is opened, which transformers alone does not know. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentforge.systems.agiformer.checkpoint_types import OWN_TYPE


def usage(config: Mapping[str, Any], path: str, adapter: bool) -> str:
    """Return Markdown on how an AGIFORMER, or an adapter on one, is opened.

    Args:
        config: fields of the model's config.json; of an adapter, its base's.
        path: a directory or a Hub id.
        adapter: it is a PEFT adapter.
    """
    package, loader = ("peft", "AutoPeftModelForCausalLM") if adapter else ("transformers", "AutoModelForCausalLM")
    steps = int(config.get("thinking_steps", 3))
    return f"""Its tokens are UTF-8 bytes. Without the import, transformers does not know the model type `{OWN_TYPE}`.

```python
import agentforge.systems.agiformer.auto  # registers {OWN_TYPE} with transformers' Auto classes
from transformers import AutoTokenizer
from {package} import {loader}

tokenizer = AutoTokenizer.from_pretrained("{path}")
model = {loader}.from_pretrained("{path}")
ids = tokenizer("The first", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids, max_new_tokens=200, do_sample=True)[0]))
```

It refines each patch of {config.get("patch_size", 4)} bytes in {steps} thinking step{"" if steps == 1 else "s"}; the
argument `thinking_steps` of the model takes fewer or more."""
