"""Ollama's Modelfile, with our chat template in Go's template language."""

from __future__ import annotations

import json
from collections.abc import Sequence

from agentforge.data.chat_template import MARKERS

TOOLS_BEGIN = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
TOOLS_END = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


def go_template(kind: str, begin: bool = False) -> str:
    """Return the conversation template that Ollama renders, equal to ours but for the spaces Go leaves out of JSON.

    Every text is a quoted action between trimmed braces, so the layout here adds nothing to the prompt. Only
    ``<tool_call>`` stands bare: Ollama finds the tag that opens a call by looking for the first text under
    ``if .ToolCalls``.

    Args:
        kind: whose turn markers, a key of `chat_template.MARKERS`.
        begin: write the begin-of-text token. Not if the tokenizer adds it, as R1's does: Ollama adds it then too.
    """
    markers = {name: _text(text) for name, text in MARKERS[kind].texts.items()}
    function_begin, function_end = _text('\n{"type": "function", "function": '), _text("}")
    call_name, call_arguments, call_end = _text('\n{"name": "'), _text('", "arguments": '), _text("}\n</tool_call>")
    response_begin, response_end = _text("<tool_response>\n"), _text("\n</tool_response>")
    # Ollama continues a conversation that ends with an assistant turn: that turn is left open, and no new one is begun.
    # Otherwise `$last` opens the assistant's turn, as `add_generation_prompt` does.
    lines = f"""
{markers["CONVERSATION_BEGIN"] if begin else ""}
{{{{- if or .System .Tools -}}}}
{markers["SYSTEM_BEGIN"]}{{{{- .System -}}}}
{{{{- if .Tools -}}}}
{{{{- if .System -}}}}{_text(chr(10) * 2)}{{{{- end -}}}}
{_text(TOOLS_BEGIN)}
{{{{- range .Tools -}}}}{function_begin}{{{{- .Function -}}}}{function_end}{{{{- end -}}}}
{_text(TOOLS_END)}
{{{{- end -}}}}
{markers["SYSTEM_END"]}
{{{{- end -}}}}
{{{{- range $i, $message := .Messages -}}}}
{{{{- $last := eq (len (slice $.Messages $i)) 1 -}}}}
{{{{- if eq .Role "user" -}}}}
{markers["USER_BEGIN"]}{{{{- .Content -}}}}{markers["USER_END"]}
{{{{- else if eq .Role "tool" -}}}}
{markers["USER_BEGIN"]}{response_begin}{{{{- .Content -}}}}{response_end}{markers["USER_END"]}
{{{{- else if eq .Role "assistant" -}}}}
{markers["ASSISTANT_BEGIN"]}{{{{- .Content -}}}}
{{{{- if .ToolCalls -}}}}
{{{{- range $j, $call := .ToolCalls -}}}}
{{{{- if or $j $message.Content -}}}}{_text(chr(10))}{{{{- end -}}}}
<tool_call>{call_name}{{{{- .Function.Name -}}}}{call_arguments}{{{{- .Function.Arguments -}}}}{call_end}
{{{{- end -}}}}
{{{{- end -}}}}
{{{{- if not $last -}}}}{markers["ASSISTANT_STOP"]}{markers["ASSISTANT_END"]}{{{{- end -}}}}
{{{{- end -}}}}
{{{{- if and $last (ne .Role "assistant") -}}}}{markers["ASSISTANT_BEGIN"]}{{{{- end -}}}}
{{{{- end -}}}}
"""
    return "\n".join(line for line in lines.splitlines() if line)


def _text(text: str) -> str:
    # a JSON string is a Go string literal too; an empty text needs no action
    return f"{{{{- {json.dumps(text, ensure_ascii=False)} -}}}}" if text else ""


def modelfile(
    file: str, template: str, stops: Sequence[str], context: int, system: str | None, license: str | None
) -> str:
    """Return a Modelfile.

    Args:
        file: the GGUF, relative to the Modelfile.
        template: from `go_template`.
        stops: texts at which generation ends.
        context: tokens.
        system: system turn of conversations without one.
        license: name or text.
    """
    parts = [f"FROM ./{file}", f"TEMPLATE {_block(template)}"]
    parts += [f'PARAMETER stop "{stop}"' for stop in stops]
    parts.append(f"PARAMETER num_ctx {context}")
    if system:
        parts.append(f"SYSTEM {_block(system)}")
    if license:
        parts.append(f"LICENSE {_block(license)}")
    return "\n".join(parts) + "\n"


def _block(text: str) -> str:
    return '"""' + text.replace('"""', '"\\""') + '"""'
