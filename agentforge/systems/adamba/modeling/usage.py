"""What a reader of a checkpoint must know before opening it: that plain transformers cannot, and the lines that can."""

from __future__ import annotations

from pathlib import Path

README = "README.md"
TYPE = "adamba"


def usage(path: str, *, adapter: bool = False) -> str:
    """Return Markdown on how a checkpoint with a nanochat's parts, or an adapter on one, is opened.

    Args:
        path: a directory or a Hub id.
        adapter: it is a PEFT adapter.
    """
    package, loader = ("peft", "AutoPeftModelForCausalLM") if adapter else ("transformers", "AutoModelForCausalLM")
    return f"""Import agentforge first. The model type `{TYPE}` is agentforge's own; transformers alone stops with
"model type `{TYPE}` but Transformers does not recognize this architecture".

```python
import agentforge.models.auto  # registers {TYPE} with transformers' Auto classes
from {package} import {loader}

model = {loader}.from_pretrained("{path}")
```"""


def write_readme(directory: Path) -> None:
    """Write `usage` beside a checkpoint, unless a README is there already."""
    if not (directory / README).exists():
        # not the directory's own name: a stage writes to a temporary one and renames it
        text = f"# An Adamba on a nanochat base\n\n{usage('path/to/this/directory')}\n"
        (directory / README).write_text(text, encoding="utf-8")
