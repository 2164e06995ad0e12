"""Files that hold rows between two steps of `prepare`: written once, read by position, never held in memory."""

from __future__ import annotations

import os
from pathlib import Path


class DiskBuffer:
    """A file of bytes, written by one process and read by any.

    Reads are `os.pread`s: unlike a memory map they leave no pages in the process, and forked processes share the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._file = path.open("w+b", buffering=0)

    def append(self, data: bytes) -> tuple[int, int]:
        """Write ``data`` at the end; return its place and length."""
        place = self.size
        view = memoryview(data)
        # An unbuffered write may accept fewer bytes than it was given.
        while view:
            view = view[self._file.write(view) :]
        self.size += len(data)
        return place, len(data)

    def read(self, place: int, length: int) -> bytes:
        """Return ``length`` bytes at ``place``."""
        parts = []
        while length:
            # Linux returns at most 2 GiB per call.
            part = os.pread(self._file.fileno(), length, place)
            if not part:
                raise EOFError(f"{self.path} ends before byte {place + length}")
            parts.append(part)
            place, length = place + len(part), length - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def remove(self) -> None:
        """Close and delete the file."""
        self._file.close()
        self.path.unlink(missing_ok=True)
