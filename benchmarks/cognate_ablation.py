"""The tables of `make cognate-ablate` for docs/cognate.md. Runs that are finished are not done again.

python -m benchmarks.cognate_ablation        # 45 minutes on two idle cores, seconds if it has been run
"""

from __future__ import annotations

import sys

from agentforge.systems.cognate.ablation.__main__ import OUTPUT, ablate
from agentforge.systems.cognate.ablation.battery import FULL
from agentforge.systems.cognate.ablation.page import TABLES


def main() -> None:
    # The page gets what is printed, so progress goes elsewhere.
    made = ablate(FULL, OUTPUT, workers=2, replace=True, say=lambda line: print(line, file=sys.stderr, flush=True))
    print((made / TABLES).read_text(encoding="utf-8").replace("### ", "#### ").strip())


if __name__ == "__main__":
    main()
