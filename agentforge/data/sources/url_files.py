"""Files that are not on the Hub: fetched, taken out of their archive, and compared with what their publisher states."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import zipfile
from pathlib import Path

from agentforge.data.sources.dataset_cards import UrlFile
from agentforge.data.sources.hub_files import fetch_url
from agentforge.errors import CheckRefused

log = logging.getLogger(__name__)

PIECE = 1 << 20


def fetch_checked(file: UrlFile, target: Path) -> None:
    """Bring a file here; what is at ``target`` afterwards is whole and the right one.

    A download that breaks off is taken up again by the next call. An archive is kept until its file is checked.

    Raises:
        UserError: the address does not answer.
        CheckRefused: it is another file than the card says.
    """
    fetched = target.with_name(f".{target.name}.fetched")
    log.info("fetching %s", file.url)
    if not fetched.is_file():
        fetch_url(file.url, fetched)
    made = fetched if file.member is None else target.with_name(f".{target.name}.unpacked")
    try:
        if file.member is not None:
            _unpack(fetched, file.member, made, file.url)
        _check(made, file)
    except CheckRefused:
        # Otherwise the next download would find the same wrong file and not ask for it again.
        fetched.unlink(missing_ok=True)
        made.unlink(missing_ok=True)
        raise
    os.replace(made, target)
    fetched.unlink(missing_ok=True)


def _unpack(archive: Path, member: str, target: Path, url: str) -> None:
    try:
        with zipfile.ZipFile(archive) as packed, packed.open(member) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, PIECE)
    except KeyError:
        raise CheckRefused(f"the archive {url} has no file '{member}'; correct `member` in the card") from None
    except zipfile.BadZipFile as error:
        raise CheckRefused(f"{url} gave a damaged archive ({error}); run the same command again") from None


def _check(path: Path, file: UrlFile) -> None:
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        raise CheckRefused(f"{file.url} gave {size:,} bytes, its card says {file.size:,}; it is not the same file")
    if file.md5 is None:
        return
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as read:
        while piece := read.read(PIECE):
            digest.update(piece)
    if digest.hexdigest() != file.md5:
        raise CheckRefused(
            f"{file.url} gave a file with md5 {digest.hexdigest()}, its card says {file.md5}; it is not the same file"
        )
