"""Model families: their real templates where a package brings them, and small tokenizers with their markers.

TRL's wheel has the templates of most families; llama.cpp's source, which `make gguf-setup` unpacks, has others.
Nobody's template is in this repository. ``python -m tests.data.dialects.families docs/templates.md`` writes the table.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from agentforge.cache import cache_directory
from agentforge.data import chat_template as ct
from agentforge.data.dialects.dialect import Dialect
from agentforge.data.dialects.rows import text_rows
from agentforge.data.messages import BadRow
from agentforge.recipe.template_names import family_templates
from tests.data.small_tokenizers import TOOLS, chatml_tokenizer

MARK = re.compile(r"<[^<>\s'\"{}=]+>|\[/?[A-Z_]+\]|\[gMASK\]")
TABLE = re.compile(r"(?<=<!-- families -->\n).*?(?=<!-- /families -->)", re.DOTALL)
PHI4 = (  # the markers of Phi-4, whose template no package brings
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '<|im_sep|>' + message.content + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A family, where its template is, and its tokenizer's special tokens.

    Attributes:
        template: a name of TRL's, ``llama.cpp:`` and a name of its, or the template.
        adds_bos: its tokenizer puts the begin token before texts by itself.
    """

    name: str
    template: str
    bos: str | None
    eos: str
    adds_bos: bool = True

    @property
    def source(self) -> str | None:
        """The template, None if the package that has it is not here."""
        if self.template.startswith("llama.cpp:"):
            trees = cache_directory().glob("llama-cpp-python-*/*/vendor/llama.cpp/models/templates")
            files = [tree / f"{self.template.removeprefix('llama.cpp:')}.jinja" for tree in trees]
            return next((file.read_text(encoding="utf-8") for file in files if file.is_file()), None)
        if "{" in self.template:
            return self.template
        return family_templates()[self.template].read_text(encoding="utf-8")


LLAMA3, SPM = ("<|begin_of_text|>", "<|eot_id|>"), ("<s>", "</s>")
DEEPSEEK = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
FAMILIES = (
    Family("Llama 3", "llama3", *LLAMA3),
    Family("Llama 3.1", "llama3_1", *LLAMA3),
    Family("Llama 3.2", "llama3_2", *LLAMA3),
    Family("Llama 3.3", "llama.cpp:meta-llama-Llama-3.3-70B-Instruct", *LLAMA3),
    Family("Qwen2.5", "qwen2_5", None, "<|im_end|>"),
    Family("Qwen3", "qwen3", None, "<|im_end|>"),
    Family("Qwen3 Instruct 2507", "qwen3_instruct_2507", None, "<|im_end|>"),
    Family("Qwen3 Coder", "llama.cpp:Qwen3-Coder", None, "<|im_end|>"),
    Family("Qwen3.5", "qwen3_5_think", None, "<|im_end|>"),
    Family("Qwen3.6", "qwen3_6", None, "<|im_end|>"),
    Family("Gemma 1 and 2", "gemma", "<bos>", "<eos>"),
    Family("Gemma 3", "gemma3", "<bos>", "<eos>"),
    Family("Gemma 4", "gemma4_v5", "<bos>", "<eos>"),
    Family("Mistral Nemo", "llama.cpp:mistralai-Mistral-Nemo-Instruct-2407", *SPM),
    Family("Mistral Small 3.2", "llama.cpp:Mistral-Small-3.2-24B-Instruct-2506", *SPM),
    Family("Phi-3", "phi3", "<s>", "<|endoftext|>"),
    Family("Phi-3.5", "phi3_5", "<s>", "<|endoftext|>"),
    Family("Phi-4 (its markers)", PHI4, None, "<|im_end|>"),
    Family("SmolLM3", "llama.cpp:HuggingFaceTB-SmolLM3-3B", None, "<|im_end|>"),
    Family("gpt-oss", "gptoss", "<|startoftext|>", "<|return|>", adds_bos=False),
    Family("GLM-4 MoE", "glm4moe", None, "<|endoftext|>"),
    Family("GLM-4.6", "llama.cpp:GLM-4.6", None, "<|endoftext|>"),
    Family("DeepSeek R1 distills", "deepseek_r1_distill", *DEEPSEEK),
    Family("DeepSeek V3", "deepseekv3", *DEEPSEEK),
    Family("DeepSeek V3.1", "llama.cpp:deepseek-ai-DeepSeek-V3.1", *DEEPSEEK),
    Family("LFM2", "lfm2_v2", "<|startoftext|>", "<|im_end|>"),
    Family("LFM2.5", "lfm2_2_5", "<|startoftext|>", "<|im_end|>"),
    Family("Nemotron 3 Nano", "nemotron_3_nano", None, "<|im_end|>"),
    Family("Granite 3.3", "llama.cpp:ibm-granite-granite-3.3-2B-Instruct", None, "<|end_of_text|>"),
    Family("Granite 4", "llama.cpp:ibm-granite-granite-4.0", None, "<|end_of_text|>"),
    Family("Command R7B", "cohere2", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"),
    Family("Kimi K2", "llama.cpp:moonshotai-Kimi-K2", "[BOS]", "<|im_end|>", adds_bos=False),
    Family("Hermes 3", "llama.cpp:NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "<|begin_of_text|>", "<|im_end|>"),
)
BY_NAME = {family.name: family for family in FAMILIES}


def here() -> list[Family]:
    """Return the families whose template is on this machine."""
    return [family for family in FAMILIES if family.source is not None]


@cache
def base_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer with a family's control tokens and its template, as its maker would publish it."""
    family = BY_NAME[name]
    source = family.source
    assert source is not None
    named = [token for token in (family.bos, family.eos) if token]
    marks = [token for token in dict.fromkeys([*named, *MARK.findall(source)]) if _is_token(token)]
    tokenizer = Tokenizer.from_str(chatml_tokenizer().backend_tokenizer.to_str())
    for token in marks:
        special = "think" not in token and "tool_call>" not in token and "tool_response>" not in token
        tokenizer.add_tokens([AddedToken(token, special=special, normalized=False)])
    if family.bos and family.adds_bos:
        from tokenizers.processors import TemplateProcessing

        begin = (family.bos, tokenizer.token_to_id(family.bos))
        tokenizer.post_processor = TemplateProcessing(single=f"{family.bos} $A", special_tokens=[begin])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=family.bos,
        eos_token=family.eos,
        pad_token="<|endoftext|>",
        chat_template=source,
        clean_up_tokenization_spaces=False,
    )


def _is_token(mark: str) -> bool:
    """Tell whether a tag in a template is a token of its family, and no part of a description for the model."""
    plain = re.fullmatch(
        r"</?(?:think|tool_call|tool_response)>|</?s>|<(?:bos|eos|start_of_turn|end_of_turn|sop)>", mark
    )
    return plain is not None or "|" in mark or "｜" in mark or mark.startswith("[") or mark.endswith("_TOKEN>")


CALLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "bash", "arguments": {"command": command}}} for command in ("ls", "pwd")
]
PARALLEL: list[dict[str, Any]] = [
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "", "tool_calls": CALLS},
    {"role": "tool", "name": "bash", "content": "a.txt"},
    {"role": "tool", "name": "bash", "content": "/home"},
    {"role": "assistant", "content": "Here."},
]


def facts(family: Family) -> list[str]:
    """Return a family's line of the table."""
    tokenizer = base_tokenizer(family.name)
    dialect = ct.dialect_of(tokenizer)
    first = ct.encode_rows_of(tokenizer, PARALLEL[:1] + PARALLEL[-1:])[0].input_ids[0]
    begins = family.bos if family.bos and first == tokenizer.convert_tokens_to_ids(family.bos) else "–"
    return [
        family.name,
        f"`{begins}`" if begins != "–" else begins,
        " ".join(f"`{stop}`" for stop in dialect.stops),
        "before the first user turn" if dialect.folds_system else "yes",
        _calls(dialect),
        _parallel(tokenizer, dialect),
        {"key": "yes", "content": "as text", "prompt": "opened by the prompt", "dropped": "–"}[dialect.reasoning],
        "rewritten" if dialect.rewrites else "kept",
    ]


def _calls(dialect: Dialect) -> str:
    if not dialect.shows_tools or dialect.calls is None:
        return "–"
    return dialect.syntax.name if dialect.syntax else "written, not read back"


def _parallel(tokenizer: PreTrainedTokenizerFast, dialect: Dialect) -> str:
    if not dialect.shows_tools or dialect.calls is None:
        return "–"
    try:
        rows = text_rows(ct.template_of(tokenizer), dialect, PARALLEL, TOOLS)
    except BadRow:
        return "refused"
    start, end = rows[0].spans[0]
    said = rows[0].text[start:end].removesuffix(dialect.call_stop)
    return "yes" if dialect.read(said, TOOLS).tool_calls == CALLS else "refused"


HEAD = ["family", "begins with", "a turn ends with", "system turn", "calls", "parallel", "reasoning", "earlier turns"]


def table() -> Iterator[str]:
    """Yield the table's lines, for the families that are here."""
    yield "| " + " | ".join(HEAD) + " |"
    yield "|" + "---|" * len(HEAD)
    for family in here():
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in facts(family)) + " |"


if __name__ == "__main__":
    page = Path(sys.argv[1])
    text = page.read_text(encoding="utf-8")
    page.write_text(TABLE.sub(lambda _: "\n".join(table()) + "\n", text), encoding="utf-8")
