"""MkDocs hooks: the navigation, a page for each public module, and the repository's files that pages link to.

griffe reads the API pages from the source. Nothing of agentforge is imported, so the site builds without torch.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"(?<=\]\()(?P<target>[^)#\s:]+)(?=[)#])")
ENTRY = re.compile(r"^- \[(?P<title>[^\]]+)\]\((?P<page>[^)]+\.md)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Read the navigation from docs/index.md, so that there is one list of pages, and append the API."""
    config.nav = [{"Home": "index.md"}, *index_groups((DOCS / "index.md").read_text(encoding="utf-8")), api_group()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is not below docs/: the API pages and the files of the repository that pages link to."""
    for name in public_modules():
        files.append(File.generated(config, api_page(name), content=f"---\ntitle: {name}\n---\n\n::: {name}\n"))
    waiting = [DOCS / file.src_uri for file in files.documentation_pages() if file.generated_by is None]
    shown: set[Path] = set()
    while waiting:
        page = waiting.pop()
        for target in set(outside_links(page, page.read_text(encoding="utf-8")).values()) - shown:
            shown.add(target)
            files.append(File.generated(config, file_page(target), content=as_markdown(target)))
            if target.suffix == ".md":  # it links to further files itself
                waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links out of docs/ to the pages that show those files."""
    if page.file.src_uri.startswith("api/"):
        return markdown
    shown = {file_page(target): target for target in linked_files(files)}
    source = shown.get(page.file.src_uri, DOCS / page.file.src_uri)
    here = Path(page.file.src_uri).parent
    targets = outside_links(source, markdown)

    def replace(match: re.Match[str]) -> str:
        target = targets.get(match["target"])
        return match["target"] if target is None else Path(os.path.relpath(file_page(target), here)).as_posix()

    return LINK.sub(replace, markdown)


def index_groups(text: str) -> list[dict[str, Any]]:
    """Return the groups of docs/index.md: its second-level headings, each with the pages listed below it."""
    groups: dict[str, list[dict[str, str]]] = {}
    for line in text.splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif entry := ENTRY.match(line):
            groups.setdefault(heading, []).append({entry["title"]: entry["page"]})
    return [{heading: pages} for heading, pages in groups.items()]


def public_modules() -> list[str]:
    """Return the dotted names of the modules that hold something, without private ones."""
    names = []
    for path in sorted((ROOT / "agentforge").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
            if not path.read_text(encoding="utf-8").strip():
                continue
        if not any(part.startswith("_") for part in parts):
            names.append(".".join(parts))
    return names


def api_page(module: str) -> str:
    return f"api/{module}.md"


def api_group() -> dict[str, Any]:
    """Return the navigation of the API: a group for each package below agentforge."""
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    for name in public_modules():
        parts = name.split(".")
        package = parts[1] if len(parts) > 1 and (ROOT / "agentforge" / parts[1]).is_dir() else "agentforge"
        groups[package].append({name.removeprefix("agentforge."): api_page(name)})
    return {"API": [{package: pages} for package, pages in sorted(groups.items())]}


def outside_links(source: Path, markdown: str) -> dict[str, Path]:
    """Return the links of a page to files that lie in the repository but not below docs/, each with its file."""
    found = {}
    for target in {match["target"] for match in LINK.finditer(markdown)}:
        path = Path(os.path.normpath(source.parent / target))
        if path.is_file() and path.is_relative_to(ROOT) and not path.is_relative_to(DOCS):
            found[target] = path
    return found


def linked_files(files: Files) -> list[Path]:
    """Return the files of the repository that have a page."""
    prefix, suffix = "files/", ".md"
    pages = [file.src_uri for file in files.documentation_pages() if file.src_uri.startswith(prefix)]
    return [ROOT / page.removeprefix(prefix).removesuffix(suffix) for page in pages]


def file_page(path: Path) -> str:
    return f"files/{path.relative_to(ROOT).as_posix()}.md"


def as_markdown(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    return f"# {path.relative_to(ROOT).as_posix()}\n\n~~~~ {path.suffix.removeprefix('.')}\n{text}\n~~~~\n"
