"""Run the benchmarks and write their tables into docs/performance.md.

    python -m benchmarks                # all of them
    python -m benchmarks startup dedup  # these

Each benchmark is a module here that prints one Markdown table; it stands in the page between
``<!-- benchmark: NAME -->`` and ``<!-- end -->``, with the command and the day above it.
"""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
NAMES = sorted(path.stem for path in HERE.glob("[a-z]*.py"))


def table_of(name: str) -> str:
    """Run one benchmark and return the Markdown that it printed."""
    run = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], stdout=subprocess.PIPE, text=True, check=True)
    return run.stdout.strip()


def insert(page: str, name: str, table: str) -> str:
    """Return the page with the block of ``name`` replaced."""
    opening = f"<!-- benchmark: {name} -->"
    block = f"{opening}\n`python -m benchmarks.{name}`, {datetime.date.today().isoformat()}\n\n{table}\n<!-- end -->"
    changed, count = re.subn(re.escape(opening) + r".*?<!-- end -->", lambda _: block, page, flags=re.DOTALL)
    if not count:
        raise SystemExit(f"{PAGE.name} has no block '{opening}'")
    return changed


def main() -> None:
    chosen = sys.argv[1:] or NAMES
    if unknown := sorted(set(chosen) - set(NAMES)):
        raise SystemExit(f"no benchmark {', '.join(unknown)}; there are: {', '.join(NAMES)}")
    for name in chosen:
        table = table_of(name)
        print(table, flush=True)
        PAGE.write_text(insert(PAGE.read_text(encoding="utf-8"), name, table), encoding="utf-8")


if __name__ == "__main__":
    main()
