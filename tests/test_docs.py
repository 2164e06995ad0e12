"""The documentation keeps its promises: commands resolve, links lead somewhere, names and excerpts are in the code."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer

from agentforge.cli import app, overrides
from agentforge.environments.registry import check_options
from agentforge.recipe.loading import load_recipe
from agentforge.recipe.overrides import parse_override

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(ROOT.glob("docs/**/*.md"))
RECIPES = sorted(ROOT.glob("configs/*/*.yaml"))
FENCE = re.compile(r"^(?:```|~~~)[^\n]*\n(.*?)^(?:```|~~~)", flags=re.S | re.M)
SPAN = re.compile(r"`([^`\n]+)`")
# What ends a command within a line: a comment, another command, a column of explanations, the rest of a sentence.
ENDS = re.compile(r"#|&&|;|\||>|\s{2,}|[()]|: |, | for |(?<!\.)\.(?: |$)")
MADE_BY_INIT = {"my", "base"}  # what the quickstart calls the reader's own
PLACEHOLDER = re.compile(r"^(?:\[?[A-Z]+\]?|\.\.\.)$")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")
ANCHOR = re.compile(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)")


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def commands_of(path: Path) -> Iterator[str]:
    """Yield the command lines of agentforge and make in a page's code, or in a recipe's comments."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".yaml":
        comments = "\n".join(match[1] for match in re.finditer(r"(?:^|\s)#\s+(.*)$", text, flags=re.M))
        fragments = SPAN.findall(comments) + SPAN.sub("  ", comments).splitlines()
    else:
        fragments = [line for block in FENCE.findall(text) for line in block.splitlines()]
        fragments += SPAN.findall(FENCE.sub("", text))
    for fragment in fragments:
        for piece in ENDS.split(fragment):
            command = piece.strip().removeprefix("$ ")
            command = re.sub(r"^(?:accelerate launch|torchrun) .*-m agentforge ", "agentforge ", command)
            if command.startswith(("agentforge ", "make ")):
                yield command


def all_commands() -> list[tuple[str, str]]:
    found = {(command, str(path.relative_to(ROOT))) for path in PAGES + RECIPES for command in commands_of(path)}
    return sorted(found)


def check_agentforge(words: list[str]) -> None:
    """Parse a command line as the program would, and load the recipe that it names."""
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    if words in (["--help"], ["--version"]) or words[0] == "VERB":
        return
    assert words[0] in verbs, f"there is no verb '{words[0]}'"
    if len(words) == 1:  # the verb is only spoken of
        return
    arguments = [word for word in words[1:] if not PLACEHOLDER.match(word)]
    placeholder = ["RECIPE"] if len(arguments) < len(words) - 1 else []
    context = verbs[words[0]].make_context(words[0], [*placeholder, *arguments])
    changes = [] if words[0] == "compare" else overrides(context)
    if words[0] == "serve-env":
        check_options({context.params["environment"]: dict(map(parse_override, changes))})
        return
    names = context.params.get("names") or [context.params.get("recipe")]
    for name in names:
        if name not in (None, "RECIPE") and is_shipped(name):
            load_once(name, tuple(changes), context.params.get("profile"))


@cache
def load_once(name: str, changes: tuple[str, ...], profile: str | None) -> None:
    load_recipe(name, changes, profile)


def is_shipped(name: str) -> bool:
    """Tell a recipe of ours from a file or a directory that the reader will have."""
    return not name.endswith(".yaml") and not name.startswith("runs/") and name not in MADE_BY_INIT


def check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        variable, assigned, _ = word.partition("=")
        if not PLACEHOLDER.match(word):
            pattern = rf"^{variable}\s*\??=" if assigned else rf"^{re.escape(word)}:"
            assert re.search(pattern, makefile, flags=re.M), f"the Makefile has no {word}"


@pytest.mark.parametrize(("command", "where"), all_commands())
def test_every_command_of_the_documentation_resolves(command: str, where: str) -> None:
    program, *words = shlex.split(command)
    (check_make if program == "make" else check_agentforge)(words)


def test_a_command_that_does_not_resolve_is_found() -> None:
    with pytest.raises(AssertionError, match="there is no verb 'trian'"):
        check_agentforge(["trian", "aj"])
    with pytest.raises(Exception, match="there is no recipe 'affine/poo'"):
        check_agentforge(["train", "affine/poo"])
    with pytest.raises(Exception, match="there is no option --modle"):
        check_agentforge(["evaluate", "RECIPE", "--modle", "base"])
    with pytest.raises(AssertionError, match="the Makefile has no aj-trian"):
        check_make(["aj-trian", "PROFILE=tiny"])


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return what the headings of a page are called in links, as GitHub and MkDocs make it."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), flags=re.M)
    return frozenset(re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    missing = [target for target in LINK.findall(text) if not (page.parent / target).exists()]
    missing += [
        f"{target}#{anchor}"
        for target, anchor in ANCHOR.findall(text)
        if anchor not in anchors(page.parent / target if target else page)
    ]
    assert not missing


def test_the_index_lists_every_page() -> None:
    listed = set(LINK.findall((ROOT / "docs/index.md").read_text(encoding="utf-8")))
    pages = {str(page.relative_to(ROOT / "docs")) for page in ROOT.glob("docs/**/*.md")} - {"index.md"}
    assert pages <= listed, f"docs/index.md does not list {sorted(pages - listed)}"


# -- docstrings: `make docs` fails on an argument that a function does not have; this finds it without the generator ---


def foreign_arguments(source: str) -> list[str]:
    """Return what docstrings describe under ``Args:`` and the signature beside them does not have."""
    found = []
    for node in ast.walk(ast.parse(source)):
        function = node
        if isinstance(node, ast.ClassDef):
            function = next((item for item in node.body if getattr(item, "name", "") == "__init__"), node)
        if not isinstance(function, ast.FunctionDef) or not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        section = re.search(r"^Args:\n((?:    .*\n|\n)+)", f"{ast.get_docstring(node) or ''}\n", flags=re.M)
        described = re.findall(r"^    (\S[^:\n]*):", section[1] if section else "", flags=re.M)
        taken = {name.arg for name in ast.walk(function.args) if isinstance(name, ast.arg)}
        found += [f"{node.name}: {name}" for name in described if name.lstrip("*") not in taken]
    return found


def test_docstrings_describe_the_arguments_that_there_are() -> None:
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "agentforge").rglob("*.py")}
    assert not [f"{path}, {name}" for path, source in sources.items() for name in foreign_arguments(source)]
    wrong = 'def f(a, b):\n    """Add.\n\n    Args:\n        a, b: numbers.\n    """\n'
    assert foreign_arguments(wrong) == ["f: a, b"]


# -- the tour: `path/file.py` is below agentforge/; `name()` and `Class` are in a file that the same section names ---


@cache
def names_in(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Return the functions of a module (methods as ``Class.method``), and the classes that it defines or imports."""
    functions, classes = set[str](), set[str]()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            functions.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            classes |= {name.asname or name.name for name in node.names}
        elif isinstance(node, ast.ClassDef):
            classes.add(node.name)
            functions |= {f"{node.name}.{method.name}" for method in node.body if isinstance(method, ast.FunctionDef)}
    return frozenset(functions), frozenset(classes)


def unknown_names(section: str) -> list[str]:
    """Return what a section of the tour names and the code does not have."""
    spans = SPAN.findall(FENCE.sub("", section))
    files = {span: ROOT / "agentforge" / span for span in spans if span.endswith(".py")}
    missing = [span for span, file in files.items() if not file.is_file()]
    found = [names_in(file) for file in files.values() if file.is_file()]
    functions = {name for names, _ in found for name in names}
    classes = {name for _, names in found for name in names}
    missing += [span for span in spans if span.endswith("()") and span[:-2] not in functions]
    return missing + [span for span in spans if re.fullmatch(r"_?[A-Z][a-z]\w*", span) and span not in classes]


def test_the_tour_names_what_is_in_the_code() -> None:
    sections = re.split(r"^##+ ", (ROOT / "docs/tour.md").read_text(encoding="utf-8"), flags=re.M)
    assert len(SPAN.findall("".join(sections))) > 100
    wrong = {section.splitlines()[0]: names for section in sections[1:] if (names := unknown_names(section))}
    assert not wrong


def test_a_name_that_the_code_does_not_have_is_found() -> None:
    section = "`cli/model_verbs.py`: `train()` calls `trian()` or raises `UserEror`; `recipe/laoding.py`"
    assert unknown_names(section) == ["recipe/laoding.py", "trian()", "UserEror"]


# -- excerpts: <!-- excerpt: FILE --> before a block whose text stands in that file; `...` marks what is left out -----

EXCERPT = re.compile(r"<!-- excerpt: (?P<file>\S+) -->\n+```\w*\n(?P<text>.*?)^```", flags=re.S | re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_excerpts_are_equal_to_the_files(page: Path) -> None:
    for match in EXCERPT.finditer(page.read_text(encoding="utf-8")):
        source = (ROOT / match["file"]).read_text(encoding="utf-8")
        for part in re.split(r"^\s*# \.\.\.\n", match["text"], flags=re.M):
            assert part.strip("\n") in source, f"{match['file']} has no longer:\n{part}"


def test_an_excerpt_that_differs_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- excerpt: agentforge/errors.py -->\n```python\nclass UserEror(Exception):\n```\n")
    with pytest.raises(AssertionError, match=r"errors\.py has no longer"):
        test_excerpts_are_equal_to_the_files(page)


def test_recipes_in_pages_load(tmp_path: Path) -> None:
    blocks = [
        block
        for page in PAGES
        for block in re.findall(r"<!-- recipe -->\n```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)
    ]
    assert blocks
    for number, block in enumerate(blocks):
        recipe = tmp_path / f"recipe{number}.yaml"
        recipe.write_text(block, encoding="utf-8")
        load_recipe(str(recipe))
