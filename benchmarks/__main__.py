"""Run the benchmarks and write their tables into the pages of docs/ that have a place for them.

    python -m benchmarks                # all of them
    python -m benchmarks startup dedup  # these
    python -m benchmarks gpu --part sft # one with options of its own: printed only

Each benchmark is a module here that prints one Markdown table; it stands in a page between
``<!-- benchmark: NAME -->`` and ``<!-- end -->``, with the command and the day above it.
"""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
NAMES = sorted(path.stem for path in HERE.glob("[a-z]*.py"))


def table_of(name: str) -> str:
    """Run one benchmark and return the Markdown that it printed."""
    run = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], stdout=subprocess.PIPE, text=True, check=True)
    return run.stdout.strip()


def page_of(name: str) -> Path:
    """Return the page that has the benchmark's block."""
    for page in sorted(DOCS.rglob("*.md")):
        if opening(name) in page.read_text(encoding="utf-8"):
            return page
    raise SystemExit(f"no page of docs/ has the block '{opening(name)}'")


def opening(name: str) -> str:
    return f"<!-- benchmark: {name} -->"


def insert(page: str, name: str, table: str) -> str:
    """Return the page with the block of ``name`` replaced."""
    block = (
        f"{opening(name)}\n`python -m benchmarks.{name}`, {datetime.date.today().isoformat()}\n\n{table}\n<!-- end -->"
    )
    return re.sub(re.escape(opening(name)) + r".*?<!-- end -->", lambda _: block, page, flags=re.DOTALL)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def main() -> None:
    if any(word.startswith("-") for word in sys.argv[2:]) and sys.argv[1] in NAMES:
        raise SystemExit(subprocess.run([sys.executable, "-m", f"benchmarks.{sys.argv[1]}", *sys.argv[2:]]).returncode)
    chosen = sys.argv[1:] or [name for name in NAMES if name != "gpu" or _has_gpu()]
    if unknown := sorted(set(chosen) - set(NAMES)):
        raise SystemExit(f"no benchmark {', '.join(unknown)}; there are: {', '.join(NAMES)}")
    pages = {name: page_of(name) for name in chosen}
    for name, page in pages.items():
        table = table_of(name)
        print(table, flush=True)
        page.write_text(insert(page.read_text(encoding="utf-8"), name, table), encoding="utf-8")


if __name__ == "__main__":
    main()
