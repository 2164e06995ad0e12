"""What an answer is held to: JSON of a schema, calls of certain tools, or both; and the grammar that says so.

The grammar is in llguidance's Lark dialect (https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md). A call
is spelt exactly as the chat template spells it, so a model that is held to it is on the path that it was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

from agentforge.data.tool_calls import CALL, END_CALL, END_THINK, THINK
from agentforge.errors import did_you_mean
from agentforge.rollouts.policies.constraints import GrammarRefused, GrammarTokenizer, TokenConstraint
from agentforge.serving.openai_errors import refuse

AS_TRAINED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""The blanks of the template's `tojson`."""
READABLE = {"whitespace_pattern": r"[ \n]{0,40}"}
"""Any layout, but no model may write blanks until its tokens are used up."""


@dataclass(frozen=True)
class Part:
    """A JSON schema that a part of the answer must meet.

    Attributes:
        param: the request's field that it comes from.
        strict: a keyword that no grammar can hold to is refused; else it is left out.
    """

    param: str
    schema: dict[str, Any]
    strict: bool

    def rule(self, layout: dict[str, Any]) -> str:
        """Return it as the right side of a grammar's rule."""
        guidance = layout | {"lenient": not self.strict}
        return "%json " + json.dumps(self.schema | {"x-guidance": guidance})


@dataclass(frozen=True)
class Form:
    """What a turn may be: one of the alternatives that are set.

    Attributes:
        param: the field of the request that asked for it.
        text: free text, with or without calls after it.
        json_value: one JSON value and nothing else.
        calls: tools that may be called, by name.
    """

    param: str
    text: bool
    json_value: Part | None
    calls: dict[str, Part]

    def grammar(self, tokenizer: GrammarTokenizer) -> str:
        """Return the Lark grammar of a turn."""
        ways = ["json"] if self.json_value else []
        rules = [f"json: {self.json_value.rule(READABLE)}"] if self.json_value else []
        if self.text:
            ways.append("text calls?" if self.calls else "text")
            marks = [tokenizer.symbol(tag) for tag in (THINK, END_THINK) if tokenizer.is_token(tag)]
            # the tag is one token here, but a model could also spell it letter by letter
            spelt = f"TEXT: /(?s:.+)/ & ~/(?s:.*){CALL}(?s:.*)/"
            rules += [f"text: ({' | '.join(['TEXT', *marks])})*", spelt]
        if self.calls:
            ways += [] if self.text else ["calls"]
            begin, end = tokenizer.symbol(CALL), tokenizer.symbol(END_CALL)
            rules += ['calls: call ("\\n" call)*', f"call: {' | '.join(f'call_{i}' for i in range(len(self.calls)))}"]
            for index, (name, part) in enumerate(self.calls.items()):
                head = json.dumps(f'\n{{"name": {json.dumps(name)}, "arguments": ')
                rules.append(f'call_{index}: {begin} {head} arguments_{index} "}}\\n" {end}')
                rules.append(f"arguments_{index}: {part.rule(AS_TRAINED)}")
        return "\n".join([f"start: {' | '.join(ways)}", *rules])

    def constraint(self, tokenizer: GrammarTokenizer) -> TokenConstraint:
        """Compile the grammar.

        Raises:
            BadRequest: a schema cannot be held to, with the field that it comes from.
        """
        if self.text and not tokenizer.is_token(CALL):
            refuse(self.param, f"the model's tokenizer has no token {CALL}, so where a call begins cannot be told")
        try:
            return tokenizer.constraint(self.grammar(tokenizer))
        except GrammarRefused as error:
            for part in [*([self.json_value] if self.json_value else []), *self.calls.values()]:
                try:
                    tokenizer.constraint(f"start: {part.rule(READABLE)}")
                except GrammarRefused as reason:
                    refuse(part.param, f"this schema cannot be held to: {reason}")
            refuse(self.param, f"the answer cannot be held to this: {error}")


def form_of(response_format: Any, tools: Sequence[dict[str, Any]] | None, tool_choice: Any) -> Form | None:
    """Return what three fields of a request hold its answer to; None if they leave it free.

    Args:
        tools: checked.

    Raises:
        BadRequest: one of them is wrong.
    """
    tools = tools or ()
    names = [tool["function"]["name"] for tool in tools]
    chosen = _chosen(tool_choice, names)
    wanted = _wanted(response_format)
    if chosen is not None:  # whatever else is asked for, this turn is a call
        return Form("tool_choice", False, None, _parts(tools, chosen))
    offered = _parts(tools, () if tool_choice == "none" else names)
    if wanted is not None:
        return Form("response_format", False, wanted, offered)
    strict = [index for index, name in enumerate(names) if name in offered and offered[name].strict]
    return Form(f"tools[{strict[0]}].function.strict", True, None, offered) if strict else None


def _chosen(choice: Any, names: list[str]) -> list[str] | None:
    """Return the tools one of which must be called; None: none must be."""
    if choice in (None, "auto", "none"):
        return None
    if choice == "required":
        if not names:
            refuse("tool_choice", "'required' needs tools, and the request has none")
        return names
    function = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    if not isinstance(function, dict):
        known = 'auto, none, required or {"type": "function", "function": {"name": ...}}'
        refuse("tool_choice", f"it must be {known}; it is {json.dumps(choice)}")
    if (name := function.get("name")) not in names:
        near = did_you_mean(str(name), names)
        refuse("tool_choice.function.name", f"{json.dumps(name)} is not one of the tools: {', '.join(names)}{near}")
    return [name]


def _wanted(response_format: Any) -> Part | None:
    """Return the schema of an answer that must be JSON."""
    if response_format is None:
        return None
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    allowed = {"type", "json_schema"} if kind == "json_schema" else {"type"}
    if kind not in ("text", "json_object", "json_schema"):
        refuse("response_format.type", "it must be text, json_object or json_schema")
    for key in response_format:
        if key not in allowed:
            refuse(f"response_format.{key}", f"a {kind} format has no such field")
    if kind == "text":
        return None
    if kind == "json_object":
        return Part("response_format", {"type": "object"}, strict=False)
    given = response_format.get("json_schema")
    if not isinstance(given, dict) or not isinstance(given.get("schema"), dict):
        refuse("response_format.json_schema.schema", "it must be a JSON schema, an object")
    for key in given:
        if key not in ("name", "description", "schema", "strict"):
            refuse(f"response_format.json_schema.{key}", "there is no such field")
    return Part("response_format.json_schema.schema", given["schema"], strict=bool(given.get("strict")))


def _parts(tools: Sequence[dict[str, Any]], names: Container[str]) -> dict[str, Part]:
    """Return what the arguments of some of the tools are held to."""
    parts = {}
    for index, tool in enumerate(tools):
        function = tool["function"]
        if (name := function["name"]) in names:
            schema = {"type": "object"} | (function.get("parameters") or {})
            parts[name] = Part(f"tools[{index}].function.parameters", schema, bool(function.get("strict")))
    return parts
