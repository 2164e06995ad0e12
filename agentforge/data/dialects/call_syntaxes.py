"""The forms in which model families write tool calls, each with its reader.

A syntax is what stands around the name and the arguments of a call. Which one a chat template writes is proved by the
probe: the template renders known calls, and the syntax that reads back those very calls is its own. So a reader need
only be right on what templates write; everything else it must call malformed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agentforge.data.dialects.call_readers import (
    Call,
    Tools,
    gemma4_calls,
    json_calls,
    named_json_calls,
    python_calls,
    tagged_calls,
)


@dataclass(frozen=True)
class Syntax:
    """One form of calls.

    Attributes:
        name: for messages and tables.
        opens: where a turn's calls begin, as a pattern.
        read: takes the text from there on, and the tools on offer; returns the calls. Raises `Unreadable`.
        begins: strings that `opens` may begin with: what is written so far may be the beginning of one.
        whole: calls are never behind text: the pattern is tried at the beginning of a turn only.
    """

    name: str
    opens: re.Pattern[str]
    read: Callable[[str, Tools], list[Call]]
    begins: tuple[str, ...]
    whole: bool = False

    def find(self, text: str) -> int | None:
        """Return where the calls of a turn begin, None if there are none."""
        found = self.opens.match(text) if self.whole else self.opens.search(text)
        return found.start() if found else None


def _json_syntax(
    name: str, begin: str, end: str, called: str = "name", arguments: str = "arguments", **more: Any
) -> Syntax:
    return Syntax(name, re.compile(re.escape(begin)), json_calls(begin, end, called, arguments), (begin,), **more)


SYNTAXES: tuple[Syntax, ...] = (
    _json_syntax("hermes", "<tool_call>", "</tool_call>"),
    Syntax(
        "function tags",
        re.compile(r"<tool_call>"),
        tagged_calls(
            r"<function=(?P<name>[^>\n]+)>(?P<body>.*?)</function>",
            r"<parameter=(?P<key>[^>\n]+)>\n?(?P<value>.*?)\n?</parameter>",
        ),
        ("<tool_call>",),
    ),
    Syntax(
        "argument tags",
        re.compile(r"<tool_call>"),
        tagged_calls(
            r"<tool_call>(?P<name>[^<\n]+)\n?(?P<body>.*?)</tool_call>",
            r"<arg_key>(?P<key>.*?)</arg_key>\s*<arg_value>(?P<value>.*?)</arg_value>",
        ),
        ("<tool_call>",),
    ),
    _json_syntax("[TOOL_CALLS] list", "[TOOL_CALLS]", ""),
    Syntax(
        "[TOOL_CALLS] name and [ARGS]",
        re.compile(r"\[TOOL_CALLS\]"),
        named_json_calls(r"\[TOOL_CALLS\](?P<name>[^\[{]+)(?:\[CALL_ID\][^\[]*)?\[ARGS\]", r""),
        ("[TOOL_CALLS]",),
    ),
    Syntax(
        "Llama 3 JSON",
        re.compile(r'\s*(?:<\|python_tag\|>)?\s*\{\s*"(?:name|type)"\s*:'),
        lambda text, tools: json_calls("", "", "name", "parameters")(
            text.lstrip().removeprefix("<|python_tag|>"), tools
        ),
        ("<|python_tag|>", '{"'),
        whole=True,
    ),
    Syntax(
        "gpt-oss channels",
        re.compile(r"(?:<\|start\|>assistant)?(?:<\|channel\|>commentary)? to=functions\."),
        named_json_calls(
            r"(?:<\|start\|>assistant)?(?:<\|channel\|>commentary)?\s*to=functions\.(?P<name>[^\s<]+)"
            r"(?:<\|channel\|>commentary)?\s*(?:<\|constrain\|>)?(?:json)?\s*<\|message\|>",
            r"(?:<\|call\|>|<\|end\|>)?",
        ),
        (" to=functions.", "<|start|>", "<|channel|>"),
    ),
    Syntax(
        "DeepSeek V3 blocks",
        re.compile(r"<｜tool▁calls▁begin｜>|<｜tool▁call▁begin｜>"),
        named_json_calls(
            r"<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>)?(?P<name>[^\n<]+?)(?:<｜tool▁sep｜>|\n```json\n)",
            r"(?:\n```)?<｜tool▁call▁end｜>",
            r"<｜tool▁calls▁begin｜>|<｜tool▁calls▁end｜>",
        ),
        ("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
    ),
    Syntax(
        "DSML tags",
        re.compile(r"<｜DSML｜(?:function|tool)_calls>"),
        tagged_calls(
            r'<｜DSML｜invoke name="(?P<name>[^"]+)">(?P<body>.*?)</｜DSML｜invoke>',
            r'<｜DSML｜parameter name="(?P<key>[^"]+)" string="(?P<string>true|false)">'
            r"(?P<value>.*?)</｜DSML｜parameter>",
        ),
        ("<｜DSML｜function_calls>", "<｜DSML｜tool_calls>"),
    ),
    Syntax(
        "Kimi sections",
        re.compile(r"<\|tool_calls_section_begin\|>"),
        named_json_calls(
            r"<\|tool_call_begin\|>(?:functions\.)?(?P<name>[^:<]+)(?::\d+)?<\|tool_call_argument_begin\|>",
            r"<\|tool_call_end\|>",
            r"<\|tool_calls_section_begin\|>|<\|tool_calls_section_end\|>",
        ),
        ("<|tool_calls_section_begin|>",),
    ),
    Syntax(
        "LFM2 Python list",
        re.compile(r"<\|tool_call_start\|>"),
        python_calls("<|tool_call_start|>", "<|tool_call_end|>"),
        ("<|tool_call_start|>",),
    ),
    _json_syntax("LFM2 JSON list", "<|tool_call_start|>", "<|tool_call_end|>"),
    Syntax(
        "OLMo 3 Python lines",
        re.compile(r"<function_calls>"),
        python_calls("<function_calls>", "</function_calls>"),
        ("<function_calls>",),
    ),
    _json_syntax("Granite 3 and Phi-4 mini list", "<|tool_call|>", "<|/tool_call|>"),
    _json_syntax("Cohere actions", "<|START_ACTION|>", "<|END_ACTION|>", "tool_name", "parameters"),
    _json_syntax("Command R actions", "Action: ```json", "```", "tool_name", "parameters"),
    _json_syntax("Nemotron Nano 2 list", "<TOOLCALL>", "</TOOLCALL>"),
    _json_syntax("Apertus list", "<|tools_prefix|>", "<|tools_suffix|>", "*"),
    _json_syntax("firefunction list", " functools", "", "name", "arguments"),
    _json_syntax("GigaChat object", "<|function_call|>", ""),
    Syntax(
        "Solar blocks",
        re.compile(r"<\|tool_calls\|>"),
        named_json_calls(
            r"<\|tool_call:begin\|>[^<]*<\|tool_call:name\|>(?P<name>[^<]+)<\|tool_call:args\|>",
            r"<\|tool_call:end\|>",
            r"<\|tool_calls\|>",
        ),
        ("<|tool_calls|>",),
    ),
    _json_syntax("MiniMax M1 lines", "<tool_calls>", "</tool_calls>"),
    Syntax(
        "MiniMax M2 tags",
        re.compile(r"<minimax:tool_call>"),
        tagged_calls(
            r'<invoke name="(?P<name>[^"]+)">(?P<body>.*?)</invoke>',
            r'<parameter name="(?P<key>[^"]+)">(?P<value>.*?)</parameter>',
        ),
        ("<minimax:tool_call>",),
    ),
    Syntax(
        "Seed function tags",
        re.compile(r"<seed:tool_call>"),
        tagged_calls(
            r"<function=(?P<name>[^>\n]+)>(?P<body>.*?)</function>",
            r"<parameter=(?P<key>[^>\n]+)>\n?(?P<value>.*?)\n?</parameter>",
        ),
        ("<seed:tool_call>",),
    ),
    Syntax(
        "functionary tags",
        re.compile(r"<function="),
        named_json_calls(r"<function=(?P<name>[^>{]+)>", r"</function>"),
        ("<function=",),
    ),
    Syntax(
        "functionary lines",
        re.compile(r">>>(?!all\n)[^\s{]+\n\{"),
        named_json_calls(r">>>(?P<name>[^\n{]+)\n", r""),
        (">>>",),
    ),
    Syntax("Gemma 4 braces", re.compile(r"<\|tool_call>call:"), gemma4_calls, ("<|tool_call>",)),
)
BY_NAME = {syntax.name: syntax for syntax in SYNTAXES}
HERMES = BY_NAME["hermes"]
