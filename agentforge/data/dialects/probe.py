"""Finding out what a chat template does: known conversations are rendered, and what comes out is looked at."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from agentforge.data.dialects.call_syntaxes import SYNTAXES, Syntax, Tools
from agentforge.data.dialects.dialect import Dialect, Reasoning, Thinking, shape
from agentforge.data.dialects.rendering import RememberingTemplate, Template
from agentforge.data.dialects.rows import text_rows
from agentforge.data.messages import BadRow, Message
from agentforge.data.tool_calls import END_THINK, THINK
from agentforge.errors import UserError

SYSTEM, ASKED, SAID, THOUGHT, RESULT, MORE = "Zsystem.", "Zasked?", "Zsaid.", "Zthought.", "Zresult.", "Zmore?"
ARGUMENTS: tuple[dict[str, Any], ...] = (
    {"path": "a.txt", "count": 3, "deep": True, "note": 'it\'s "so"\nline <b> é', "names": ["x", "y"], "at": {"k": 1}},
    {"path": "a b.txt", "count": 3},
)
"""Of probe calls: the first that a template writes so that it can be read back counts."""
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "ztool",
        "description": "Zdescription.",
        "parameters": {
            "type": "object",
            "properties": {
                "path": {"type": "string", "description": "where"},
                "count": {"type": "integer", "description": "how many"},
                "deep": {"type": "boolean", "description": "all"},
                "note": {"type": "string", "description": "what"},
                "names": {"type": "array", "items": {"type": "string"}, "description": "who"},
                "at": {"type": "object", "properties": {"k": {"type": "integer"}}, "description": "which"},
            },
            "required": ["path", "count"],
        },
    },
}
ENDS = (6, -2, None)
"""Ends of a probe conversation with calls: behind a result or a question, each time with an answer."""
_BRACKETED = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]")


def user(text: str = ASKED) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str = SAID, **more: Any) -> Message:
    return {"role": "assistant", "content": text, **more}


def called(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "ztool", "arguments": arguments}}


@dataclass(frozen=True)
class _Calls:
    """How calls go in, how they come out, and the text of a turn that has one."""

    given: Literal["dict", "text"]
    empty_content: str | None
    syntax: Syntax | None
    said: str


def find_dialect(template: Template, control: re.Pattern[str], end: str = "") -> Dialect:
    """Return what a template does.

    Args:
        control: finds the tokenizer's control tokens; one of them must end a turn.
        end: the tokenizer's end-of-sequence token.

    Raises:
        UserError: it writes no conversation, or nothing ends a turn.
    """
    template = RememberingTemplate(template.source, template.special)
    plain = _plain(template)
    prompt = template.render([user()], None, prompt=True)
    stop, next_role = _stop(template, control, plain, end)
    folds = not _shows(template, [{"role": "system", "content": SYSTEM}, user()], SYSTEM)
    prefill = _prefill(prompt, plain)
    calls = _calls(template, control, prefill)
    reasoning, thinking = _reasoning(template, control, prompt, stop)
    opens = bool(thinking.begin) and prompt.rstrip().endswith(thinking.begin)
    call_stop = _call_stop(template, control, calls, stop, next_role) if calls else stop
    dialect = Dialect(
        ours=template.is_ours,
        folds_system=folds,
        shows_tools=_shows(template, [user()], "Zdescription.", [TOOL]),
        calls=calls.given if calls else None,
        empty_content=calls.empty_content if calls else "",
        syntax=calls.syntax if calls else None,
        reasoning=reasoning,
        thinking=thinking,
        opens_reasoning=opens,
        prefill=prefill,
        stop=stop,
        call_stop=call_stop,
        next_role_stops=next_role,
        rewrites=False,
        opening="",
    )
    dialect = replace(dialect, rewrites=_rewrites(template, dialect))
    return replace(dialect, opening=_opening(template, dialect, control, prompt, plain))


def _plain(template: Template) -> str:
    try:
        text = template.render([user(), assistant()], None, prompt=False)
    except BadRow as error:
        raise UserError(f"the chat template cannot write a question and its answer: {error}") from None
    if ASKED not in text or SAID not in text:
        raise UserError("the chat template does not write what the user or the assistant says")
    return text


def _shows(template: Template, turns: Sequence[Message], text: str, tools: Tools | None = None) -> bool:
    try:
        return text in template.render(turns, tools, prompt=True)
    except BadRow:
        return False


def _stop(template: Template, control: re.Pattern[str], plain: str, end: str) -> tuple[str, bool]:
    """Return the token behind an answer, and whether it is the mark of whoever speaks next."""
    behind = plain[plain.rindex(SAID) + len(SAID) :]
    if found := _run(control, behind):
        return found[-1], False
    try:
        longer = template.render([user(), assistant(), user(MORE)], None, prompt=False)
    except BadRow:
        longer = ""
    following = longer[longer.find(SAID) + len(SAID) : longer.find(MORE)] if MORE in longer else ""
    if found := _run(control, following):
        return found[0], True
    if end and end in following + behind:
        return end, False
    raise UserError(
        "the chat template ends an answer with no token of the tokenizer, so a model could not learn where to stop; "
        "set data.template to another one"
    )


def _run(control: re.Pattern[str], text: str) -> list[str]:
    """Return the first control tokens of a text that stand side by side: Cohere closes the answer, then the turn."""
    run: list[str] = []
    for index, part in enumerate(control.split(text)):
        if index % 2 == 0 and part and run:
            break
        if index % 2 and part:
            run.append(part)
    return run


def _tokens(control: re.Pattern[str], text: str) -> list[str]:
    return [part for part in control.split(text)[1::2] if part]


def _calls(template: Template, control: re.Pattern[str], prefill: str) -> _Calls | None:
    """Find how the template takes calls; None: they do not come out."""
    unread: _Calls | None = None
    for arguments, given, content in product(ARGUMENTS, ("dict", "text"), ("", None)):
        said = _said_call(template, arguments, given, content, prefill)
        if said is None or "ztool" not in said or "a" + arguments["path"][1:] not in said:
            continue
        expected = [called(arguments)]
        body = said.lstrip()
        for syntax in SYNTAXES:
            for text in dict.fromkeys((said, body, *_cuts(control, body))):
                if _reads(syntax, text, expected):
                    return _Calls(given, content, syntax, said)
        unread = unread or _Calls(given, content, None, said)
    return unread


def _said_call(
    template: Template, arguments: dict[str, Any], given: Literal["dict", "text"], content: str | None, prefill: str
) -> str | None:
    turns = [user(), assistant("", tool_calls=[called(arguments)])]
    shaped = shape(turns, False, given, content, "key")
    try:
        prompt = template.render(shaped[:1], [TOOL], prompt=True)
        whole = template.render(shaped, [TOOL], prompt=False)
    except BadRow:
        return None
    begun = prompt if whole.startswith(prompt) else prompt.removesuffix(prefill)
    return whole[len(begun) :] if whole.startswith(begun) else None


def _cuts(control: re.Pattern[str], text: str) -> list[str]:
    """Return the text without its last control tokens: the stop, whatever it is, is no part of a call."""
    cuts = []
    places = [found for found in control.finditer(text) if found.group()]
    for found in reversed(places[-2:]):
        if not text[found.end() :].strip():
            text = text[: found.start()].rstrip()
            cuts.append(text)
    return cuts


def _reads(syntax: Syntax, text: str, expected: list[dict[str, Any]]) -> bool:
    at = syntax.find(text)
    if at is None:
        return False
    try:
        return syntax.read(text[at:], [TOOL]) == expected
    except ValueError:
        return False


def _call_stop(template: Template, control: re.Pattern[str], calls: _Calls, stop: str, next_role: bool) -> str:
    if stop in calls.said:
        return stop
    if next_role:
        turns = [user(), assistant("", tool_calls=[called(ARGUMENTS[1])]), {"role": "tool", "content": RESULT}]
        try:
            longer = template.render(shape(turns, False, calls.given, calls.empty_content, "key"), [TOOL], prompt=False)
        except BadRow:
            return stop
        before = longer[: longer.find(RESULT)]
        # Between the call and the result: the first mark that no call has.
        own = set(_tokens(control, calls.said))
        behind = before[before.rfind("ztool") :]
        return next((token for token in _tokens(control, behind) if token not in own), stop)
    found = _tokens(control, calls.said)
    return found[-1] if found and calls.said.rstrip().endswith(found[-1]) and not _part_of(calls, found[-1]) else stop


def _part_of(calls: _Calls, token: str) -> bool:
    """Tell whether a token closes the call itself: without it the call cannot be read, or it stands there twice."""
    return calls.said.count(token) > 1 or token.startswith("</") or ("tool" in token and "end" in token)


def _reasoning(template: Template, control: re.Pattern[str], prompt: str, stop: str) -> tuple[Reasoning, Thinking]:
    """Find where reasoning goes in, and what stands around it and around the answer."""
    opened = _opened(prompt)
    silent = _after(template, prompt, [user(), assistant()], stop)
    ways: tuple[Reasoning, ...] = ("key", "content")
    for way in ways:
        turns = shape([user(), assistant(reasoning_content=THOUGHT)], False, "dict", "", way)
        said = _after(template, prompt, turns, stop)
        if said is None or THOUGHT not in said or SAID not in said or said.index(THOUGHT) > said.index(SAID):
            continue
        return way, _marks(said, silent, opened)
    if opened:
        end = opened.replace("<", "</", 1).replace("[", "[/", 1)
        return "prompt", Thinking(begin=opened, end=end, close=f"\n{end}", gap="\n\n")
    return "dropped", Thinking(heads=_heads(silent or "", ""))


def _opened(prompt: str) -> str:
    """Return the mark that opens reasoning at the end of a prompt; empty without one."""
    last = prompt.rstrip().rpartition("\n")[2]
    found = re.search(r"(?:<(?![^<>]*end)[^<>/\s]*think[^<>/\s]*>|\[THINK\])$", last, re.IGNORECASE)
    return found.group() if found else ""


def _prefill(prompt: str, plain: str) -> str:
    """Return what a prompt ends with that an answer in the history does not begin with."""
    return prompt[_differ(prompt, plain[: plain.index(SAID)]) :]


def _differ(left: str, right: str) -> int:
    """Return how many characters two texts begin with alike."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(left), len(right)))


def _after(template: Template, prompt: str, turns: Sequence[Message], stop: str) -> str | None:
    try:
        whole = template.render(turns, None, prompt=False)
    except BadRow:
        return None
    if not whole.startswith(prompt):
        return None
    body = whole[len(prompt) :]
    return body[: body.find(stop)] if stop in body else body


def _marks(said: str, silent: str | None, opened: str) -> Thinking:
    begin = said[: said.index(THOUGHT)].strip() or opened
    gap = said[said.index(THOUGHT) + len(THOUGHT) : said.index(SAID)]
    between = gap.strip()
    tail = said[said.index(SAID) + len(SAID) :].strip()
    first = _BRACKETED.match(between)
    end = first.group() if first else between
    head = between[len(end) :].strip()
    close = gap[: gap.index(end) + len(end)]
    return Thinking(begin or THINK, end or END_THINK, close, "", _heads(silent or "", end, head), tail)


def _heads(silent: str, end: str, *more: str) -> tuple[str, ...]:
    """Return the marks before an answer without reasoning; an empty block of reasoning is none."""
    before = silent[: silent.index(SAID)].strip() if SAID in silent else ""
    heads = [*more] if end and end in before else [*more, before]
    return tuple(dict.fromkeys(head for head in heads if head))


def _rewrites(template: Template, dialect: Dialect) -> bool:
    """Tell whether a first answer is written differently once a second question follows."""
    thought = {} if dialect.reasoning == "dropped" else {"reasoning_content": THOUGHT}
    try:
        return len(text_rows(template, dialect, [user(), assistant(**thought), user(MORE), assistant()], None)) > 1
    except BadRow:
        return True


def _opening(template: Template, dialect: Dialect, control: re.Pattern[str], prompt: str, plain: str) -> str:
    """Return what stands before each answer, if one rendering of a conversation shows what each turn's own does."""
    asked = _rendered(template, [user()])
    begin = _differ(prompt, asked) if asked else len(prompt)
    # Phi-3 ends what is no prompt with a token of its own, and all its tokens begin alike.
    begin = next((found.start() for found in control.finditer(prompt) if found.start() < begin < found.end()), begin)
    opening = prompt[begin:]
    # Without a control token in it, what somebody says could look like it.
    if dialect.next_role_stops or opening not in plain or not _tokens(control, opening):
        return ""
    quick = replace(dialect, opening=opening)
    return opening if all(_is_alike(template, dialect, quick, *case) for case in _conversations(dialect)) else ""


def _rendered(template: Template, turns: Sequence[Message]) -> str:
    try:
        return template.render(turns, None, prompt=False)
    except BadRow:
        return ""


def _conversations(dialect: Dialect) -> list[tuple[list[Message], Tools | None]]:
    """Return conversations of every kind that the template can write, each with several answers, and various ends."""
    system: Message = {"role": "system", "content": SYSTEM}
    result: Message = {"role": "tool", "name": "ztool", "content": RESULT}
    calls = [called(ARGUMENTS[-1])]
    chat = [user(), assistant(), user(MORE), assistant(f"  {SAID}\n\n"), user(), assistant()]
    acts = [*chat[:2], user(MORE), assistant("", tool_calls=calls), result, assistant("", tool_calls=calls), result]
    acts += [assistant(), user(), assistant("", tool_calls=calls), result, assistant(MORE)]
    says = [turn | {"content": SAID} if "tool_calls" in turn else turn for turn in acts]
    both = [user(), assistant("", tool_calls=[*calls, called({"path": "c.txt"})]), result, result, *acts[1:]]
    kinds = [chat] if dialect.calls is None else [chat, *(turns[:end] for turns in (acts, says, both) for end in ENDS)]
    offered: list[Tools | None] = [None, [TOOL]] if dialect.shows_tools else [None]
    return [([*head, *turns], tools) for head in ([], [system]) for turns in kinds for tools in offered]


def _is_alike(template: Template, slow: Dialect, quick: Dialect, turns: list[Message], tools: Tools | None) -> bool:
    try:
        return text_rows(template, slow, turns, tools) == text_rows(template, quick, turns, tools)
    except BadRow:
        # Many refuse several calls, or a text beside one; another refusal leaves open how this kind is written.
        return any(turn.get("tool_calls") and (turn["content"] or len(turn["tool_calls"]) > 1) for turn in turns)
