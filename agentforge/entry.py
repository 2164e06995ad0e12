"""What surrounds every verb: the log, quiet libraries, and how an error ends the process."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any

import typer
import typer.core

from agentforge.errors import UserError, did_you_mean
from agentforge.stopping import StoppedBySignal
from agentforge.system_errors import explain_system_error

log = logging.getLogger(__name__)

LOG_LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


class Verbs(typer.core.TyperGroup):
    """Takes Ctrl-C before typer does, which would end with 130 and without a word."""

    def invoke(self, context: Any) -> Any:
        try:
            return super().invoke(context)
        except KeyboardInterrupt as error:
            raise StoppedBySignal("Ctrl-C") from error


def run_app(app: typer.Typer) -> None:
    """Run a command line. What a user can mend ends in one sentence; anything else is a bug and keeps its traceback."""
    try:
        quieten_libraries()
        logging.basicConfig(level=log_level(), format="%(message)s", stream=sys.stderr)
        app()
    except UserError as error:
        _refuse(error, error)
    except Exception as error:
        if (refusal := explain_system_error(error)) is None:
            raise
        _refuse(refusal, error)


def _refuse(refusal: UserError, error: Exception) -> None:
    log.debug("the error behind the message:", exc_info=error)
    typer.secho(f"agentforge: {refusal}", err=True, fg="red")
    sys.exit(refusal.exit_code)


def log_level() -> str:
    """Return ``AGENTFORGE_LOG``, in any case, or INFO.

    Raises:
        UserError: it is no level.
    """
    given = os.environ.get("AGENTFORGE_LOG") or "INFO"
    if (level := given.upper()) not in LOG_LEVELS:
        hint = did_you_mean(level, LOG_LEVELS)
        raise UserError(f"AGENTFORGE_LOG is '{given}'; it must be one of {', '.join(LOG_LEVELS)}{hint}")
    return level


def quieten_libraries() -> None:
    """Leave the messages to agentforge. Libraries read these variables when they are imported."""
    for noisy in ("httpx", "filelock", "urllib3", "huggingface_hub", "datasets", "jax"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # Its warnings are about what we set right afterwards. The variable is for a library not imported yet, and the
    # level for one that is: a caller of `main` may have it.
    logging.getLogger("transformers").setLevel(logging.ERROR)
    # the stages show their own progress
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # the pinned libraries' notices to each other about names that their next versions drop
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft|trl")
    warnings.filterwarnings("ignore", message="Cannot enable progress bars")
