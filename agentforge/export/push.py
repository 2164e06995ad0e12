"""`push`: one artefact to the Hub with its model card, after a check for secrets."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentforge.artifacts import read_manifest
from agentforge.errors import CheckRefused, UserError, first_line
from agentforge.export.model_card import licence_warnings, model_card
from agentforge.manifest import check_bytes
from agentforge.models.locate_model import locate_model
from agentforge.recipe.schema import Recipe

if TYPE_CHECKING:
    from rich.console import Group

log = logging.getLogger(__name__)

CARD = "README.md"
# What resuming needs and users do not; two files stay because they name this machine's directories.
LEFT_OUT = re.compile(
    r"(checkpoint-\d+/.*|value_head\.safetensors|optimizer.*|scheduler\.pt|rng_state.*|training_args\.bin|\.[^/]*|rows/.*|manifest\.json|training\.json)"
)
SECRETS = {
    "a Hugging Face token": re.compile(rb"hf_[A-Za-z0-9]{30,}"),
    "an API key": re.compile(rb"\bsk-[A-Za-z0-9_-]{24,}"),
    "a GitHub token": re.compile(rb"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})"),
    "an AWS key": re.compile(rb"\bAKIA[0-9A-Z]{16}\b"),
    "a Slack token": re.compile(rb"\bxox[abprs]-[A-Za-z0-9-]{10,}"),
    "a private key": re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a login on a machine": re.compile(rb"\broot@\d{1,3}(?:\.\d{1,3}){3}\b"),
}
BINARY = (".safetensors", ".gguf")


@dataclass(frozen=True)
class Upload:
    """What goes to the Hub.

    Attributes:
        repo: ORG/NAME, None if `export.hub_repo` is not set.
        files: path in the repository to bytes.
        card: the README.md.
        warnings: licences to mind, local paths in the files.
        sent: whether it has been uploaded.
    """

    repo: str | None
    files: dict[str, int]
    card: str
    warnings: list[str]
    sent: bool = False


def push(recipe: Recipe, model: str | None = None, dry_run: bool = False) -> Upload:
    """Upload an artefact, or with ``dry_run`` only say what would go.

    Args:
        recipe: `export.hub_repo` says where to.
        model: ``lora``, ``merged``, ``model`` or a quantisation; none: the most faithful there is.

    Raises:
        UserError: no such artefact, no `export.hub_repo`, no HF_TOKEN in the environment, or the Hub refuses.
        CheckRefused: a file, or the card, holds something that looks like a secret.
    """
    location = locate_model(recipe, model)
    directory = Path(location.path)
    directory = directory.parent if location.kind == "gguf" else directory
    if directory != recipe.artifact(location.label):
        raise UserError(f"push uploads only artefacts of this recipe ({recipe.full_name}-...), not {location.path}")
    # Refuses a directory that a stage has not finished, or that somebody has changed since.
    read_manifest(directory)
    check_bytes(directory)
    card = model_card(recipe, location.label)
    names = list(_files(directory))
    _refuse_secrets(directory, names, card)
    sizes = {CARD: len(card.encode())} | {name: (directory / name).stat().st_size for name in names}
    warnings = [*licence_warnings(recipe), *_local_paths(directory, recipe)]
    upload = Upload(recipe.export.hub_repo, sizes, card, warnings)
    if dry_run:
        return upload
    _send(upload, directory, names)
    return replace(upload, sent=True)


def _files(directory: Path) -> Iterator[str]:
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_file() and name != CARD and not LEFT_OUT.fullmatch(name):
            yield name


def _refuse_secrets(directory: Path, names: list[str], card: str) -> None:
    # Weights are not searched: in 65 GB of random bytes a pattern would match by chance.
    texts = {CARD: card.encode(), **{n: (directory / n).read_bytes() for n in names if not n.endswith(BINARY)}}
    for name, text in texts.items():
        for what, pattern in SECRETS.items():
            if found := pattern.search(text):
                line = text.count(b"\n", 0, found.start()) + 1
                raise CheckRefused(f"{directory / name}, line {line} has what looks like {what}; remove it first")


def _local_paths(directory: Path, recipe: Recipe) -> list[str]:
    base = recipe.model.path
    if directory == recipe.artifact("lora") and base is not None and Path(base).exists():
        return [f"adapter_config.json names the base {base}, which nobody else has"]
    return []


def _send(upload: Upload, directory: Path, names: list[str]) -> None:
    if upload.repo is None:
        raise UserError("set export.hub_repo=ORG/NAME to push; --dry-run shows what would be uploaded")
    if not (token := os.environ.get("HF_TOKEN")):
        raise UserError("set the environment variable HF_TOKEN to a Hub token with write access")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # httpx or httpx2, whichever this version of the Hub's client brings
    http_error: Any = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    # Links beside the artefact, so that the card can be among the files without the artefact being touched.
    view = directory.with_name(f".{directory.name}.push")
    shutil.rmtree(view, ignore_errors=True)
    view.mkdir()
    try:
        (view / CARD).write_text(upload.card, encoding="utf-8")
        for name in names:
            (view / name).parent.mkdir(parents=True, exist_ok=True)
            (view / name).symlink_to((directory / name).resolve())
        api = HfApi(token=token)
        api.create_repo(upload.repo, private=True, exist_ok=True)  # what is public cannot be taken back
        api.upload_folder(
            repo_id=upload.repo, folder_path=view, commit_message=f"Upload {directory.name} with agentforge"
        )
    except (http_error, HFValidationError, OSError) as error:
        reason = first_line(error)
        raise UserError(
            f"the upload to {upload.repo} failed: {reason}; run the same command again to continue it"
        ) from None
    finally:
        shutil.rmtree(view, ignore_errors=True)


def report(upload: Upload) -> Group:
    """Return what goes, for the terminal: files, card, warnings."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    where = upload.repo or "(export.hub_repo is not set)"
    title = Text(f"{'sent' if upload.sent else 'would go'} to {where}", style="bold")
    table = Table()
    table.add_column("file")
    table.add_column("MB", justify="right")
    for name, size in upload.files.items():
        table.add_row(escape(name), f"{size / 1e6:,.2f}")
    table.add_row("together", f"{sum(upload.files.values()) / 1e6:,.2f}", style="bold")
    warnings = [Text(f"! {warning}", style="yellow") for warning in upload.warnings]
    return Group(title, table, *warnings, Text(f"\n{upload.card}"))
