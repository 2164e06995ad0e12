"""The command line: ``agentforge VERB RECIPE [key=value ...] [--profile NAME]``. Parse, call one function, print.

    app                  the application, and what all verbs share
    preparation_verbs    init, doctor, show, plan, download, prepare, preview
    model_verbs          collect, surgery, train, evaluate, compare, report, merge, gguf
    use_verbs            chat, generate, serve, deploy, launch, serve-env, push, verify, run

Each verb imports its stage itself, after it has read the recipe. So `--help`, `show`, `plan` and `doctor` start without
torch, and a typo is reported before seconds of imports.
"""

from __future__ import annotations

from importlib import import_module

from agentforge.cli.app import app, overrides
from agentforge.entry import run_app

# Importing a module registers its verbs, and `agentforge --help` lists them in this order.
for _verbs in ("preparation_verbs", "model_verbs", "use_verbs"):
    import_module(f"{__name__}.{_verbs}")

__all__ = ["app", "main", "overrides"]


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 wrong input, 3 refused by a check, 75 stopped."""
    run_app(app)
