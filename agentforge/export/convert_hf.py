"""Runs llama.cpp's convert_hf_to_gguf.py in this process, naming the pre-tokenizer of tokenizers it has never seen.

The converter knows a BPE by a hash of what it makes of one test string, so every newly trained one is refused, although
its pre-tokenizer may be Qwen2's to the letter. ``python -m agentforge.export.convert_hf TREE PRE ARGUMENT...``; PRE is
empty if the pre-tokenizer is not to be named.
"""

from __future__ import annotations

import sys
from typing import Any

from agentforge.export.llama_worker import die_with_parent


def main() -> None:
    """Patch the one method that identifies the pre-tokenizer, then hand over."""
    die_with_parent()
    tree, named, *arguments = sys.argv[1:]
    sys.path[:0] = [tree, f"{tree}/gguf-py"]  # its own gguf package: PyPI's of the same version differs
    from conversion.base import TextModel

    identify = TextModel.get_vocab_base_pre

    def identify_or_take_named(self: Any, tokenizer: Any) -> str:
        try:
            return str(identify(self, tokenizer))
        except NotImplementedError:
            if not named:
                raise
            return named

    TextModel.get_vocab_base_pre = identify_or_take_named
    import convert_hf_to_gguf

    sys.argv = ["convert_hf_to_gguf.py", *arguments]
    convert_hf_to_gguf.main()


if __name__ == "__main__":
    main()
