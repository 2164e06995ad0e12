"""Readers of tool calls: each takes the text of a turn from where its calls begin, and returns the calls."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentforge.data.dialects.values import braced_value, decode_json, shorten, typed
from agentforge.data.tool_calls import nested_call

Tools = Sequence[Mapping[str, Any]]
Call = dict[str, Any]


class Unreadable(ValueError):
    """A call that cannot be read; what it says is shown to whoever looks at the turn."""


def made(name: Any, arguments: Any) -> Call:
    """Return a nested call.

    Raises:
        Unreadable: there is no name, or the arguments are no JSON object.
    """
    try:
        return nested_call({"name": name, "arguments": arguments})
    except ValueError as error:
        raise Unreadable(str(error)) from None


# -- JSON: an object or a list of them between two marks -------------------------------------------------------------


def json_calls(begin: str, end: str, name: str = "name", arguments: str = "arguments") -> Callable[..., list[Call]]:
    """Return a reader of ``begin`` JSON ``end``, once or repeatedly; ``end`` may be missing at the end of the turn."""

    def read(text: str, tools: Tools) -> list[Call]:
        calls: list[Call] = []
        at = 0
        while at < len(text):
            if begin and text.startswith(begin, at):
                at += len(begin)
            elif begin and not calls:
                raise Unreadable(f"{begin} is missing: {shorten(text)}")
            value, at = decode_json(text, at)
            while True:
                calls += [_from_object(one, name, arguments) for one in (value if isinstance(value, list) else [value])]
                at = _after_layout(text, at)
                if not text.startswith("{", at):  # several objects between one pair of marks (MiniMax-M1)
                    break
                value, at = decode_json(text, at)
            if end and text.startswith(end, at):
                at += len(end)
            at = _after_layout(text, at)
            if begin and at < len(text) and not text.startswith(begin, at):
                raise Unreadable(f"there is text behind the calls: {shorten(text[at:])}")
        return calls

    return read


_bare_json = json_calls("", "", "name", "parameters")


def llama3_calls(text: str, tools: Tools) -> list[Call]:
    return _bare_json(text.lstrip().removeprefix("<|python_tag|>"), tools)


def _from_object(value: Any, name: str, arguments: str) -> Call:
    if not isinstance(value, dict):
        raise Unreadable(f"a tool call is no JSON object: {shorten(json.dumps(value))}")
    if name == "*":  # {"bash": {"command": "ls"}}, as Apertus writes it
        if len(value) != 1:
            raise Unreadable(f"a tool call is no object of one key: {shorten(json.dumps(value))}")
        ((called, given),) = value.items()
        return made(called, given)
    if name not in value:
        raise Unreadable(f"a tool call has no {name}: {shorten(json.dumps(value))}")
    given = value.get(arguments)
    return made(value[name], given)


def _after_layout(text: str, at: int) -> int:
    """Pass over blanks and the separators of Llama's and others' several calls."""
    found = re.compile(r"[\s;,]*").match(text, at)
    return found.end() if found else at


# -- a name, then JSON -----------------------------------------------------------------------------------------------


def named_json_calls(head: str, tail: str, around: str = "") -> Callable[..., list[Call]]:
    """Return a reader of calls whose name stands before their JSON.

    Args:
        head: pattern from a call's beginning to its JSON, with the group ``name``.
        tail: pattern of what follows the JSON.
        around: pattern of marks around all calls, passed over.
    """
    heads, tails = re.compile(head), re.compile(tail)
    outer = re.compile(rf"(?:\s|{around})*" if around else r"\s*")

    def read(text: str, tools: Tools) -> list[Call]:
        calls: list[Call] = []
        at = outer.match(text).end()  # type: ignore[union-attr]
        while at < len(text):
            found = heads.match(text, at)
            if found is None:
                raise Unreadable(f"a tool call cannot be read: {shorten(text[at:])}")
            value, at = decode_json(text, found.end())
            calls.append(made(found["name"].strip(), value))
            closed = tails.match(text, at)
            at = outer.match(text, closed.end() if closed else at).end()  # type: ignore[union-attr]
        return calls

    return read


# -- names and values between tags -----------------------------------------------------------------------------------


def tagged_calls(call: str, parameter: str) -> Callable[..., list[Call]]:
    """Return a reader of calls whose arguments stand in tags of their own.

    Args:
        call: pattern of a whole call with the groups ``name`` and ``body``.
        parameter: pattern of one argument with the groups ``key`` and ``value``, and ``string`` if the tag says so.
    """
    calls_of, parameters = re.compile(call, re.DOTALL), re.compile(parameter, re.DOTALL)

    def read(text: str, tools: Tools) -> list[Call]:
        found = list(calls_of.finditer(text))
        if not found:
            raise Unreadable(f"a tool call cannot be read: {shorten(text)}")
        calls = []
        for one in found:
            name = one["name"].strip()
            properties = _properties(tools, name)
            arguments = {}
            for pair in parameters.finditer(one["body"]):
                declared = properties.get(pair["key"].strip(), {})
                if "string" in pair.groupdict():
                    declared = {"type": "string"} if pair["string"] == "true" else {"type": "object"}
                arguments[pair["key"].strip()] = typed(pair["value"], declared)
            if not arguments and one["body"].strip() and not parameters.search(one["body"]):
                raise Unreadable(f"the arguments of the call of '{name}' cannot be read: {shorten(one['body'])}")
            calls.append(made(name, arguments))
        return calls

    return read


def _properties(tools: Tools, name: str) -> Mapping[str, Any]:
    for tool in tools:
        function = tool.get("function", tool)
        if function.get("name") == name:
            properties: Mapping[str, Any] = (function.get("parameters") or {}).get("properties") or {}
            return properties
    return {}


# -- Python ----------------------------------------------------------------------------------------------------------


def python_calls(begin: str, end: str) -> Callable[..., list[Call]]:
    """Return a reader of ``begin[name(key=value, ...)]end``, or of one such call a line."""

    def read(text: str, tools: Tools) -> list[Call]:
        inner = text.strip()
        if not inner.startswith(begin):
            raise Unreadable(f"{begin} is missing: {shorten(text)}")
        inner = inner.removeprefix(begin).strip()
        inner = inner.removesuffix(end).strip()
        try:
            body = ast.parse(inner).body
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            raise Unreadable(f"the calls are no Python: {shorten(inner)}") from None
        expressions: list[ast.expr] = []
        for line in body:
            if not isinstance(line, ast.Expr):
                raise Unreadable(f"the calls are no Python calls: {shorten(inner)}")
            expressions += line.value.elts if isinstance(line.value, ast.List | ast.Tuple) else [line.value]
        return [_python_call(one) for one in expressions]

    return read


_NAMES = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}


def _python_call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call) or node.args or any(keyword.arg is None for keyword in node.keywords):
        raise Unreadable(f"not a call with named arguments: {shorten(ast.unparse(node))}")
    return made(ast.unparse(node.func), {keyword.arg: _literal(keyword.value) for keyword in node.keywords})


def _literal(node: ast.expr) -> Any:
    """Read a literal of Python or of JSON; nothing is evaluated."""
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        return {_literal(key): _literal(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        raise Unreadable(f"an argument is no literal: {shorten(ast.unparse(node))}") from None


# -- Gemma 4 ---------------------------------------------------------------------------------------------------------


def gemma4_calls(text: str, tools: Tools) -> list[Call]:
    calls: list[Call] = []
    head = re.compile(r"\s*<\|tool_call>call:(?P<name>[^{]+)")
    at = 0
    while at < len(text.rstrip()):
        found = head.match(text, at)
        if found is None:
            raise Unreadable(f"a tool call cannot be read: {shorten(text[at:])}")
        try:
            value, at = braced_value(text, found.end(), '<|"|>')
        except ValueError as error:
            raise Unreadable(str(error)) from None
        calls.append(made(found["name"].strip(), value))
        at += len("<tool_call|>") if text.startswith("<tool_call|>", at) else 0
    return calls
