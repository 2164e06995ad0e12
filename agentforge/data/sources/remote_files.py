"""Files of the Hub that are fetched one at a time while they are read, and deleted after that."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agentforge.data.sources.hub_files import RemoteFile, fetch_file
from agentforge.data.sources.source_files import LockedFile

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteFiles:
    """The files of a source that does not fit on the disk.

    Attributes:
        hub_id: the repository.
        commit: that the download recorded.
        files: where each file lies while it is read, to its name, size and hash.
        fetched: those that were fetched here; what was in the cache before stays there.
    """

    hub_id: str
    commit: str
    files: dict[Path, tuple[str, LockedFile]]
    fetched: set[Path] = field(default_factory=set)

    def fetch(self, path: Path) -> None:
        """Bring a file here.

        Raises:
            UserError: the Hub does not answer.
            CheckRefused: it is not the file that was recorded.
        """
        if path.is_file():
            return
        name, locked = self.files[path]
        log.info("%s: fetching %s to read it", self.hub_id, name)
        fetch_file(self.hub_id, self.commit, RemoteFile(name, locked.size, locked.sha256 or None, None))
        self.fetched.add(path)

    @contextmanager
    def here(self, path: Path) -> Iterator[None]:
        """Have a file here for as long as the block runs."""
        self.fetch(path)
        try:
            yield
        finally:
            if path in self.fetched:
                # The snapshot's link, and what it points to.
                path.resolve().unlink(missing_ok=True)
                path.unlink(missing_ok=True)
                self.fetched.discard(path)

    def inputs(self, dataset: str) -> dict[str, Path | str]:
        """Return what stands for the files among the inputs of an artefact."""
        return {f"{dataset} {name}": f"{self.commit} {file.sha256 or file.size}" for name, file in self.files.values()}
