"""Ollama's Modelfile, with our chat template in Go's template language."""

from __future__ import annotations

import json
from collections.abc import Sequence

from agentforge.data.own_template import MARKERS

TOOLS_BEGIN = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
TOOLS_END = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


# A JSON value as our own template writes it: a space behind each comma and colon, and `<`, `>` and `&` as they are.
# Go's JSON has no spaces and writes those three as escapes. Keys are sorted: Go does not keep their order.
VALUE = """
{{- define "value" -}}
{{- $kind := printf "%T" . -}}
{{- if eq $kind "string" -}}{{- printf "%q" . -}}
{{- else if eq $kind "[]interface {}" -}}{{- "[" -}}
{{- range $i, $item := . -}}{{- if $i -}}{{- ", " -}}{{- end -}}{{- template "value" $item -}}{{- end -}}{{- "]" -}}
{{- else if eq $kind "map[string]interface {}" -}}{{- template "members" . -}}
{{- else -}}{{- json . -}}
{{- end -}}
{{- end -}}
{{- define "members" -}}
{{- "{" -}}{{- $first := true -}}
{{- range $key, $item := . -}}
{{- if not $first -}}{{- ", " -}}{{- end -}}{{- $first = false -}}
{{- printf "%q" $key -}}{{- ": " -}}{{- template "value" $item -}}
{{- end -}}{{- "}" -}}
{{- end -}}"""


def go_template(kind: str, begin: bool = False, system: str | None = None) -> str:
    """Return the conversation template that Ollama renders, equal to ours but for what docs/export.md lists.

    Every text is a quoted action between trimmed braces, so the layout here adds nothing to the prompt. Only what
    Ollama looks for in the template itself stands bare: the first text under ``if .ToolCalls`` is the tag that opens a
    call, and the texts around ``.Thinking`` are those that enclose the reasoning.

    Args:
        kind: whose turn markers, a key of `own_template.MARKERS`.
        begin: write the begin-of-text token. Not if the tokenizer adds it, as R1's does: Ollama adds it then too.
        system: system turn of conversations without one, where a Modelfile's SYSTEM cannot hold it.
    """
    markers = {name: _text(text) for name, text in MARKERS[kind].texts.items()}
    response_begin, response_end = _text("<tool_response>\n"), _text("\n</tool_response>")
    default = f".System {_quoted(system)}" if system else ".System"
    # Ollama continues a conversation that ends with an assistant turn: that turn is left open, and no new one is begun.
    # Otherwise `$last` opens the assistant's turn, as `add_generation_prompt` does.
    lines = f"""
{markers["CONVERSATION_BEGIN"] if begin else ""}
{{{{- $system := or {default} -}}}}
{{{{- if or $system .Tools -}}}}
{markers["SYSTEM_BEGIN"]}{{{{- $system -}}}}
{_tools()}
{markers["SYSTEM_END"]}
{{{{- end -}}}}
{{{{- range $i, $message := .Messages -}}}}
{{{{- $last := eq (len (slice $.Messages $i)) 1 -}}}}
{{{{- if eq .Role "user" -}}}}
{markers["USER_BEGIN"]}{{{{- .Content -}}}}{markers["USER_END"]}
{{{{- else if eq .Role "tool" -}}}}
{markers["USER_BEGIN"]}{response_begin}{{{{- .Content -}}}}{response_end}{markers["USER_END"]}
{{{{- else if eq .Role "assistant" -}}}}
{markers["ASSISTANT_BEGIN"]}
{{{{- if .Thinking -}}}}
<think>{_text(chr(10))}{{{{- .Thinking -}}}}{_text(chr(10))}</think>
{{{{- end -}}}}
{{{{- if .Thinking -}}}}{_text(chr(10) * 2)}{{{{- end -}}}}
{{{{- .Content -}}}}
{{{{- if and .Content (len .ToolCalls) -}}}}{_text(chr(10))}{{{{- end -}}}}
{_calls()}
{{{{- if not $last -}}}}{markers["ASSISTANT_STOP"]}{markers["ASSISTANT_END"]}{{{{- end -}}}}
{{{{- end -}}}}
{{{{- if and $last (ne .Role "assistant") -}}}}{markers["ASSISTANT_BEGIN"]}{{{{- end -}}}}
{{{{- end -}}}}
"""
    return "\n".join(line for line in f"{VALUE}{lines}".splitlines() if line)


def _tools() -> str:
    """The tools on offer, behind the system turn's text."""
    tool_begin, description = _text('\n{"type": "function", "function": {"name": '), _text(', "description": ')
    parameters, tool_end = _text(', "parameters": '), _text("}}")
    return f"""{{{{- if .Tools -}}}}
{{{{- if $system -}}}}{_text(chr(10) * 2)}{{{{- end -}}}}
{_text(TOOLS_BEGIN)}
{{{{- range .Tools -}}}}
{tool_begin}{{{{- printf "%q" .Function.Name -}}}}
{{{{- if .Function.Description -}}}}{description}{{{{- printf "%q" .Function.Description -}}}}{{{{- end -}}}}
{parameters}{{{{- json .Function.Parameters -}}}}{tool_end}
{{{{- end -}}}}
{_text(TOOLS_END)}
{{{{- end -}}}}"""


def _calls() -> str:
    """The calls of an assistant's turn."""
    call_name, call_arguments, call_end = _text('\n{"name": '), _text(', "arguments": '), _text("}\n</tool_call>")
    return f"""{{{{- if .ToolCalls -}}}}
{{{{- range $j, $call := .ToolCalls -}}}}
<tool_call>{call_name}{{{{- printf "%q" .Function.Name -}}}}{call_arguments}
{{{{- template "members" .Function.Arguments -}}}}{call_end}
{{{{- if gt (len (slice $message.ToolCalls $j)) 1 -}}}}{_text(chr(10))}{{{{- end -}}}}
{{{{- end -}}}}
{{{{- end -}}}}"""


def _text(text: str) -> str:
    # an empty text needs no action
    return f"{{{{- {_quoted(text)} -}}}}" if text else ""


def _quoted(text: str) -> str:
    """Return a Go string literal. A Modelfile drops characters that are not printable, so those are escaped."""
    literal = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in literal)


def modelfile(
    file: str,
    kind: str,
    stops: Sequence[str],
    context: int,
    system: str | None,
    license: str | None,
    begin: bool = False,
) -> str:
    """Return a Modelfile.

    Temperature and penalty are those of `chat`, `serve` and `evaluate`: Ollama's own would draw, and some of its
    versions punish what a tool call must repeat.

    Args:
        file: the GGUF, relative to the Modelfile.
        kind: whose turn markers.
        stops: texts at which generation ends.
        context: tokens.
        system: system turn of conversations without one.
        license: name or text.
        begin: the template writes the begin-of-text token.
    """
    plain = system is None or _fits_block(system)
    template = go_template(kind, begin, None if plain else system)
    parts = [f"FROM ./{file}", f"TEMPLATE {_block(template)}"]
    parts += [f'PARAMETER stop "{stop}"' for stop in stops]
    parts += [f"PARAMETER num_ctx {context}", "PARAMETER temperature 0", "PARAMETER repeat_penalty 1"]
    if system and plain:
        parts.append(f"SYSTEM {_block(system)}")
    if license:
        parts.append(f"LICENSE {_block(license if _fits_block(license) else json.dumps(license))}")
    return "\n".join(parts) + "\n"


def _fits_block(text: str) -> bool:
    """Tell whether a Modelfile's block holds a text as it is: it knows no escapes.

    A line that ends in three quotation marks ends the block, and what is not printable is dropped.
    """
    ends = any(line.rstrip().endswith('"""') for line in text.splitlines())
    return not ends and all(c.isprintable() or c in "\n\t" for c in text)


def _block(text: str) -> str:
    return f'"""{text}"""'
