"""What is fetched from an address is the file that the card describes, or nothing is kept."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agentforge.data.sources.dataset_cards import UrlFile, load_card
from agentforge.data.sources.url_files import fetch_checked
from agentforge.errors import CheckRefused

TEXT = b"<page>Anarchism</page>\n" * 500


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def address() -> Iterator[str]:
    served = {"/text.zip": zipped("text", TEXT), "/broken.zip": zipped("text", TEXT)[:-30], "/text": TEXT}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = served[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def described(url: str, **other: object) -> UrlFile:
    known = {"url": url, "member": "text", "size": len(TEXT), "md5": hashlib.md5(TEXT).hexdigest()}
    return UrlFile.model_validate(known | other)


def test_a_file_is_taken_out_of_its_archive_and_checked(address: str, tmp_path: Path) -> None:
    fetch_checked(described(f"{address}/text.zip"), tmp_path / "text.txt")
    assert (tmp_path / "text.txt").read_bytes() == TEXT and len(list(tmp_path.iterdir())) == 1


def test_a_plain_file_is_checked_too(address: str, tmp_path: Path) -> None:
    fetch_checked(described(f"{address}/text", member=None), tmp_path / "text.txt")
    assert (tmp_path / "text.txt").read_bytes() == TEXT


@pytest.mark.parametrize(
    ("path", "other", "said"),
    [
        ("/text.zip", {"md5": "0" * 32}, "its card says 00000000"),
        ("/text.zip", {"size": 5}, "its card says 5; it is not the same file"),
        ("/text.zip", {"member": "enwik8"}, "has no file 'enwik8'"),
        ("/broken.zip", {}, "damaged archive"),
    ],
)
def test_another_file_is_refused_and_nothing_stays(
    address: str, tmp_path: Path, path: str, other: dict[str, object], said: str
) -> None:
    with pytest.raises(CheckRefused, match=said):
        fetch_checked(described(address + path, **other), tmp_path / "text.txt")
    assert list(tmp_path.iterdir()) == []


def test_enwik8_is_known_by_size_and_md5() -> None:
    file = load_card("enwik8").urls["enwik8.txt"]
    assert (file.size, file.md5, file.member) == (100_000_000, "a1fa5ffddb56f4953e226637dabbb36a", "enwik8")
