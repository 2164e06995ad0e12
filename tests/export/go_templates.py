"""Go's text/template as far as Ollama's templates use it, and Ollama's Modelfile parser, for tests without Go.

`test_ollama.py` compares both with Go itself where it is installed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

TRIM = re.compile(r'\{\{(-\s)?\s*((?:"(?:[^"\\]|\\.)*"|[^"])*?)\s*(\s-)?\}\}')
WORD = re.compile(r'"(?:[^"\\]|\\.)*"|\(|\)|:=|=|,|[^\s(),]+')


def go_json(value: Any) -> str:
    """Return what `json.Marshal` writes: no spaces, sorted keys, and `<`, `>`, `&` escaped."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def go_quote(text: str) -> str:
    """Return `%q` of a text."""
    short = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}
    short |= {'"': '\\"', "\\": "\\\\"}

    def one(c: str) -> str:
        if c in short:
            return short[c]
        if c.isprintable():
            return c
        return f"\\x{ord(c):02x}" if ord(c) < 128 else f"\\u{ord(c):04x}" if ord(c) < 65536 else f"\\U{ord(c):08x}"

    return '"' + "".join(map(one, text)) + '"'


def go_type(value: Any) -> str:
    kinds = {str: "string", bool: "bool", float: "float64", int: "float64", list: "[]interface {}"}
    return kinds.get(type(value), "map[string]interface {}" if isinstance(value, dict) else "<nil>")


@dataclass
class Node:
    kind: str
    text: str = ""
    body: list[Node] = field(default_factory=list)
    other: list[Node] = field(default_factory=list)


class Template:
    """A parsed template; `defined` are the others in it."""

    def __init__(self, source: str) -> None:
        self.defined: dict[str, list[Node]] = {}
        self._tokens = self._split(source)
        self.root, end = self._parse(0)
        assert end == len(self._tokens)

    @staticmethod
    def _split(source: str) -> list[tuple[str, str]]:
        tokens, at, trim_next = [], 0, False
        for found in TRIM.finditer(source):
            text = source[at : found.start()]
            text = text.lstrip() if trim_next else text
            text = text.rstrip() if found[1] else text
            if text:
                tokens.append(("text", text))
            tokens.append(("action", found[2]))
            at, trim_next = found.end(), bool(found[3])
        rest = source[at:].lstrip() if trim_next else source[at:]
        return [*tokens, *([("text", rest)] if rest else [])]

    def _parse(self, at: int) -> tuple[list[Node], int]:
        nodes: list[Node] = []
        while at < len(self._tokens):
            kind, text = self._tokens[at]
            word = text.partition(" ")[0]
            if kind == "action" and word in ("end", "else"):
                return nodes, at
            at += 1
            if kind == "action" and word in ("if", "range", "define"):
                node = Node(word, text.partition(" ")[2])
                node.body, at = self._parse(at)
                node.other, at = self._otherwise(at)
                if word == "define":
                    self.defined[json.loads(node.text)] = node.body
                else:
                    nodes.append(node)
            else:
                nodes.append(Node(kind, text))
        return nodes, at

    def _otherwise(self, at: int) -> tuple[list[Node], int]:
        text = self._tokens[at][1]
        if text == "end":
            return [], at + 1
        if text == "else":
            other, end = self._parse(at + 1)
            assert self._tokens[end][1] == "end"
            return other, end + 1
        node = Node("if", text.removeprefix("else if "))
        node.body, end = self._parse(at + 1)
        node.other, end = self._otherwise(end)
        return [node], end

    def execute(self, data: Any) -> str:
        return self._run(self.root, data, [{"$": data}])

    def _run(self, nodes: list[Node], dot: Any, scopes: list[dict[str, Any]]) -> str:
        return "".join(self._one(node, dot, scopes) for node in nodes)

    def _one(self, node: Node, dot: Any, scopes: list[dict[str, Any]]) -> str:
        if node.kind == "text":
            return node.text
        inner = [*scopes, {}]
        if node.kind == "if":
            return self._run(node.body if truth(self._eval(node.text, dot, scopes)) else node.other, dot, inner)
        if node.kind == "range":
            return self._range(node, dot, scopes)
        words = WORD.findall(node.text)
        if words[0] == "template":
            value = self._eval(node.text.split(None, 2)[2], dot, scopes)
            return self._run(self.defined[json.loads(words[1])], value, [{"$": value}])
        if words[0].startswith("$") and words[1:2] in ([":="], ["="]):
            value = self._eval(node.text.split("=", 1)[1], dot, scopes)
            holder = next((s for s in reversed(scopes) if words[0] in s), scopes[-1])
            (scopes[-1] if words[1] == ":=" else holder)[words[0]] = value
            return ""
        return shown(self._eval(node.text, dot, scopes))

    def _range(self, node: Node, dot: Any, scopes: list[dict[str, Any]]) -> str:
        names, _, pipeline = node.text.rpartition(":=")
        over = self._eval(pipeline, dot, scopes)
        pairs = sorted(over.items()) if isinstance(over, dict) else list(enumerate(over or []))
        variables = WORD.findall(names.replace(",", " "))
        found = ""
        for key, value in pairs:
            found += self._run(node.body, value, [*scopes, dict(zip(variables, (key, value), strict=False))])
        return found

    def _eval(self, pipeline: str, dot: Any, scopes: list[dict[str, Any]]) -> Any:
        words = WORD.findall(pipeline)
        value, end = self._command(words, 0, dot, scopes)
        assert end == len(words), pipeline
        return value

    def _command(self, words: list[str], at: int, dot: Any, scopes: list[dict[str, Any]]) -> tuple[Any, int]:
        arguments: list[Any] = []
        name = words[at] if words[at] in FUNCTIONS else None
        at += name is not None
        while at < len(words) and words[at] != ")":
            if words[at] == "(":
                value, at = self._command(words, at + 1, dot, scopes)
            else:
                value = self._operand(words[at], dot, scopes)
            arguments.append(value)
            at += 1
        return (FUNCTIONS[name](*arguments) if name else arguments[0]), at

    def _operand(self, word: str, dot: Any, scopes: list[dict[str, Any]]) -> Any:
        if word.startswith('"'):
            literal = re.sub(r"\\U([0-9a-f]{8})", lambda found: chr(int(found[1], 16)), word)
            return json.loads(literal, strict=False)
        if word in ("true", "false"):
            return word == "true"
        if word.isdigit():
            return int(word)
        head, *path = word.split(".")
        value = next(s[head] for s in reversed(scopes) if head in s) if head else dot
        for name in path:
            value = value[name] if name else value
        return value


def truth(value: Any) -> bool:
    return bool(value)


def shown(value: Any) -> str:
    assert isinstance(value, str | int), "Ollama prints other values as Go does, which no model was trained on"
    return str(value)


def go_slice(value: Any, start: int) -> Any:
    return value[start:]


FUNCTIONS: dict[str, Any] = {
    "or": lambda *values: next((v for v in values if truth(v)), values[-1]),
    "and": lambda *values: next((v for v in values if not truth(v)), values[-1]),
    "not": lambda value: not truth(value),
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "gt": lambda a, b: a > b,
    "len": lambda value: len(value or []),
    "slice": go_slice,
    "printf": lambda form, value: go_quote(value) if form == "%q" else go_type(value),
    "json": go_json,
}


def read_modelfile(text: str) -> list[tuple[str, str]]:
    """Return a Modelfile's commands as Ollama reads them: no escapes, and what is not printable is dropped."""
    commands, at = [], 0
    text = "".join(c for c in text if c.isprintable() or c in "\n\t\r")
    while at < len(text):
        line, _, _ = text[at:].partition("\n")
        if not line.strip() or line.startswith("#"):
            at += len(line) + 1
            continue
        name, _, value = line.partition(" ")
        if name == "PARAMETER":
            name, _, value = value.partition(" ")
        begin = at + line.index(value)
        end = begin + len(value)
        mark = '"""' if value.startswith('"""') else '"' if value.startswith('"') else ""
        while mark and not (text[begin:end].strip().endswith(mark) and len(text[begin:end].strip()) >= 2 * len(mark)):
            end = text.index("\n", end + 1) if "\n" in text[end + 1 :] else len(text)
        value = text[begin:end].strip()
        commands.append((name.lower(), value[len(mark) : len(value) - len(mark)]))
        at = end + 1
    return commands
