"""The network half of `download`: list a repository, fetch a file, compare its hash. A failure becomes one sentence."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from agentforge.artifacts import sha256_file
from agentforge.data.sources.source_files import LockedFile
from agentforge.errors import CheckRefused, UserError, first_line

Kind = Literal["dataset", "model"]
TIMEOUT = 15.0
"""Seconds to wait for an answer."""
PAUSES = (1.0, 4.0, 15.0, 60.0)
"""Seconds before each time that a server is asked for the rest of a file, if nothing has come since the last."""

log = logging.getLogger(__name__)


class HubUnreachable(UserError):
    """The Hub does not answer: asking it for the next data set is of no use."""


@dataclass(frozen=True)
class RemoteFile:
    """A file as the Hub lists it; one in LFS has a SHA-256, any other the id of its git blob."""

    name: str
    size: int
    sha256: str | None
    git_id: str | None


def list_files(hub_id: str, revision: str | None, kind: Kind = "dataset") -> tuple[str, list[RemoteFile]]:
    """Return the commit that a revision (None: the newest) stands for, and its files.

    Raises:
        UserError: the repository or revision is not there, or needs a login.
        Unreachable: the Hub does not answer.
    """
    from huggingface_hub import HfApi

    with hub_errors(hub_id, revision):
        api = HfApi()
        read = api.dataset_info if kind == "dataset" else api.model_info
        info = read(hub_id, revision=revision, files_metadata=True, timeout=TIMEOUT)
    files = [
        RemoteFile(
            name=entry.rfilename,
            size=entry.size or 0,
            sha256=entry.lfs.sha256 if entry.lfs else None,
            git_id=None if entry.lfs else entry.blob_id,
        )
        for entry in info.siblings or []
    ]
    return str(info.sha), files


def fetch_file(hub_id: str, commit: str, file: RemoteFile, kind: Kind = "dataset") -> LockedFile:
    """Fetch a file into the Hub's cache and compare its hash.

    The Hub's client goes on where a connection broke; what a killed process had of a file it fetches again.

    Raises:
        UserError, Unreachable: as `list_files`.
        CheckRefused: the bytes are not those that the Hub lists; they are deleted.
    """
    from huggingface_hub import hf_hub_download

    with hub_errors(hub_id, commit):
        path = Path(hf_hub_download(hub_id, file.name, repo_type=kind, revision=commit))
    sha256 = sha256_file(path)
    right = sha256 == file.sha256 if file.sha256 else file.git_id in (None, git_blob_id(path))
    if not right or path.stat().st_size != file.size:
        # Both the blob and the snapshot's link to it: if only the link went, the next run would link the wrong bytes
        # again.
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise CheckRefused(
            f"{hub_id}: {file.name} does not match the hash that the Hub lists (it has SHA-256 {sha256[:12]}...). "
            "It was deleted; run the same command again"
        )
    return LockedFile(size=file.size, sha256=sha256)


def git_blob_id(path: Path) -> str:
    """Return the id that git gives a file's content: SHA-1 of ``blob SIZE NUL`` and the bytes."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def hub_errors(hub_id: str, revision: str | None) -> Iterator[None]:
    """Turn what the Hub's client raises into one sentence."""
    from huggingface_hub import constants, errors

    where = f"at revision {revision}" if revision else "on the Hub"
    try:
        yield
    except errors.GatedRepoError:
        raise UserError(
            f"{hub_id} is gated: accept its terms at https://huggingface.co/datasets/{hub_id}, then run `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{hub_id} is not {where}, or it is private; check the name, or run `hf auth login`") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{hub_id} has no revision {revision}; correct `revision` in its card") from None
    except errors.OfflineModeIsEnabled:
        raise HubUnreachable("the Hub is switched off by HF_HUB_OFFLINE; unset it to download") from None
    except (errors.HTTPError, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None and status < 500:
            raise UserError(f"{hub_id}: the Hub answered {status} ({first_line(error)[:160]})") from None
        # A full disk is not the network's fault: its own error stays.
        if isinstance(error, OSError) and error.errno is not None and status is None and not _is_network(error):
            raise
        raise HubUnreachable(
            f"the Hub ({constants.ENDPOINT}) cannot be reached ({first_line(error)[:160]}); mend the network, set "
            "data.hub_mirror to a local copy, or data.allow_missing=true to go on with what is here"
        ) from None


def _is_network(error: OSError) -> bool:
    return isinstance(error, (ConnectionError, TimeoutError))


def fetch_url(url: str, target: Path) -> None:
    """Fetch a file from an address that is not the Hub, going on where an earlier attempt stopped.

    A server that breaks off or falls silent in mid-stream is asked for the rest, with pauses, as long as bytes come: a
    rented machine should not wait until morning for the same command.

    Raises:
        UserError: the address does not answer, or not with the file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    most = began = _size(partial)
    failures = 0
    while True:
        try:
            _fetch_rest(url, partial)
            break
        except BrokeOff as error:
            failures = 0 if _size(partial) > most else failures + 1
            most = max(most, _size(partial))
            # A server that has sent nothing at all is not in mid-stream; whoever is offline should not wait.
            if most == began or failures == len(PAUSES):
                raise
            log.warning("%s; %.1f MB are here, it is asked for the rest in %g s", error, most / 1e6, PAUSES[failures])
            time.sleep(PAUSES[failures])
    os.replace(partial, target)


class BrokeOff(UserError):
    """A download ended before the file did; the same command goes on with it."""


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _fetch_rest(url: str, partial: Path) -> None:
    import httpx2 as httpx

    have = _size(partial)
    # the identity encoding, because a part of a compressed answer is no part of the file
    headers = {"User-Agent": "agentforge", "Accept-Encoding": "identity"} | (
        {"Range": f"bytes={have}-"} if have else {}
    )
    try:
        with httpx.stream("GET", url, headers=headers, timeout=TIMEOUT, follow_redirects=True) as answer:
            if answer.is_error:
                _refuse_answer(url, answer.status_code, answer.reason_phrase, partial)
            # 206 is the rest of the file; with 200 the server sends all of it again, and that replaces what is here.
            with partial.open("ab" if answer.status_code == 206 else "wb") as file:
                for piece in answer.iter_bytes():
                    file.write(piece)
    except httpx.RemoteProtocolError:  # the connection ended before the announced length
        raise BrokeOff(f"the download of {url} broke off; run the same command again to resume it") from None
    except httpx.TransportError as error:
        raise BrokeOff(f"{url} cannot be reached ({first_line(error)[:160]})") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UserError(f"{url} cannot be reached ({first_line(error)[:160]})") from None


def _refuse_answer(url: str, status: int, reason: str, partial: Path) -> NoReturn:
    """Raise what an answer without the file means; a server that is only busy (5xx) costs nothing that is here."""
    if status < 500:  # an answer like 416, the partial file is longer than the file is now, would come back each time
        partial.unlink(missing_ok=True)
        raise UserError(f"{url} answered {status} {reason}; download the file yourself and give its path")
    raise BrokeOff(f"{url} answered {status} {reason}; run the same command again later, it goes on where it stopped")
