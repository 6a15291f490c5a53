"""Downloads against a server on this machine that drops, stalls, lies and fails."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from s4s import download as module
from s4s.download import cache_dir, download
from s4s.errors import Error

BODY = bytes(range(256)) * 12_000  # 3 MB
SHA256 = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves BODY under any name; the name's parts say how: ``/drop2-noranges/file.bin`` drops two connections."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        self.over = threading.Event()

    def url(self, how: str, name: str = "file.bin") -> str:
        return f"http://127.0.0.1:{self.server_port}/{how}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        how = self.path.split("/")[1].split("-")
        attempt = len(self.server.ranges)
        if how[0].isdecimal() and (len(how) == 1 or attempt <= int(how[1])):
            return self.send_error(int(how[0]))
        body = b"<html>log in</html>" if "wrong" in how else BODY[:-5] if "shorter" in how else BODY
        first = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and "noranges" not in how else 0
        if first >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            return self.end_headers()
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first + ('shifted' in how)}-{len(body) - 1}/{len(body)}")
        if "nolength" not in how:
            self.send_header("Content-Length", str(len(body) - first))
        self.end_headers()
        rest = body[first:]
        if "drop" in how and attempt <= 2:
            self.wfile.write(rest[: len(rest) // 2])
        elif "never" in how:
            self.wfile.write(rest[:10])
        elif "stall" in how and attempt <= 1:
            self.wfile.write(rest[:1000])
            self.server.over.wait(60)  # not a time that a slow machine may outlast
        else:
            self.wfile.write(rest)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.over.set()
        server.shutdown()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT", 0.01)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def check(path: Path) -> None:
    assert path.read_bytes() == BODY
    assert names(path.parent) == [path.name]


def test_a_file_is_fetched_once(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = download(server.url("good"), tmp_path / "new" / "file.bin", SHA256.upper(), licence="CC BY-NC-SA 4.0")
    check(path)
    assert "file.bin: fetching http://127.0.0.1" in (told := capsys.readouterr().err)
    assert "licence: CC BY-NC-SA 4.0" in told
    assert download(server.url("good"), path, SHA256) == path
    assert download(server.url("404"), path, SHA256, offline=True) == path
    assert server.ranges == [None]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("variables", "expected"), [
    ({"S4S_CACHE": "a"}, "a"), ({"S4S_CACHE": "", "XDG_CACHE_HOME": "b"}, "b/s4s"),
    ({"S4S_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "c"}, "c/.cache/s4s"),
])  # fmt: skip
def test_the_cache_directory(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for key, value in variables.items():
        monkeypatch.setenv(key, str(tmp_path / value) if value else "")
    assert cache_dir() == tmp_path / expected
    path = download(server.url("good", "my%20file.bin?token=1"), None, SHA256)
    assert path == tmp_path / expected / "my file.bin"
    check(path)


def test_a_dropped_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    check(download(server.url("drop"), tmp_path / "file.bin", SHA256))
    half = len(BODY) // 2
    assert server.ranges == [None, f"bytes={half}-", f"bytes={half + (len(BODY) - half) // 2}-"]


def test_an_earlier_process_is_resumed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(BODY[:1_000_000])
    check(download(server.url("good"), tmp_path / "file.bin", SHA256))
    assert server.ranges == ["bytes=1000000-"]


def test_a_complete_part_needs_only_its_name(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(BODY)
    check(download(server.url("good"), tmp_path / "file.bin", SHA256))
    assert len(server.ranges) == 1


@pytest.mark.parametrize("part", [BODY + b"more", b"x" * 1000, b"x" * len(BODY)])
def test_a_part_of_something_else_is_dropped(server: Server, tmp_path: Path, part: bytes) -> None:
    (tmp_path / "file.bin.part").write_bytes(part)
    check(download(server.url("good"), tmp_path / "file.bin", SHA256))
    assert len(server.ranges) == 2 and server.ranges[-1] is None


@pytest.mark.parametrize("how", ["drop-noranges", "drop-shifted"])
def test_a_server_that_cannot_resume(server: Server, tmp_path: Path, how: str) -> None:
    check(download(server.url(how), tmp_path / "file.bin", SHA256))


def test_a_stall_is_retried(server: Server, tmp_path: Path) -> None:
    check(download(server.url("stall"), tmp_path / "file.bin", SHA256, timeout=1.0))
    assert server.ranges == [None, "bytes=1000-"]


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_passing_errors_of_the_server_are_retried(server: Server, tmp_path: Path, status: int) -> None:
    check(download(server.url(f"{status}-2"), tmp_path / "file.bin", SHA256))
    assert len(server.ranges) == 3


@pytest.mark.parametrize(("how", "reason", "attempts"), [
    ("404", "the server answers 404 Not Found", 1), ("403", "the server answers 403 Forbidden", 1),
    ("500", "the server answers 500 Internal Server Error", 3),
    ("never", "the connection closed after 30 of 3,072,000 bytes", 3),
    ("stall-never", "the connection closed after", 3),
])  # fmt: skip
def test_giving_up_says_what_to_do(server: Server, tmp_path: Path, how: str, reason: str, attempts: int) -> None:
    url, path = server.url(how), tmp_path / "file.bin"
    with pytest.raises(Error, match=reason) as caught:
        download(url, path, SHA256, retries=2)
    line = str(caught.value)
    assert line.startswith(f"file.bin: cannot fetch {url}: ")
    assert line.endswith(f"download it elsewhere and put it at {path} (SHA-256 {SHA256})")
    assert "\n" not in line and len(server.ranges) == attempts
    assert not path.exists()


def test_what_came_before_giving_up_is_kept_for_the_next_time(server: Server, tmp_path: Path) -> None:
    with pytest.raises(Error):
        download(server.url("drop"), tmp_path / "file.bin", SHA256, retries=0)
    assert names(tmp_path) == ["file.bin.part"]
    check(download(server.url("good"), tmp_path / "file.bin", SHA256))
    assert server.ranges[-1] is not None


@pytest.mark.parametrize("how", ["wrong", "shorter", "wrong-nolength", "drop-nolength"])
def test_wrong_contents_never_get_the_name(server: Server, tmp_path: Path, how: str) -> None:
    with pytest.raises(Error, match=r"what came has SHA-256 [0-9a-f]{64}, so it is another file") as caught:
        download(server.url(how), tmp_path / "file.bin", SHA256)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


def test_a_wrong_file_in_place_is_not_overwritten(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"mine")
    with pytest.raises(Error, match=r"has SHA-256 .*, not .*; remove the file to fetch it again"):
        download(server.url("good"), tmp_path / "file.bin", SHA256)
    assert (tmp_path / "file.bin").read_bytes() == b"mine" and server.ranges == []


def test_without_a_hash_it_is_told_and_never_resumed(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file.bin.part").write_bytes(b"x" * 1000)
    check(download(server.url("drop"), tmp_path / "file.bin", None))
    assert server.ranges == [None] * 3
    assert f"SHA-256 {SHA256}, not checked" in capsys.readouterr().err


def test_offline(tmp_path: Path) -> None:
    with pytest.raises(Error, match=f"offline mode is on; .*put it at .*file.bin .SHA-256 {SHA256}") as caught:
        download("https://example.org/file.bin", tmp_path / "file.bin", SHA256, offline=True)
    assert "\n" not in str(caught.value) and names(tmp_path) == []


def test_no_network_is_one_line(server: Server, tmp_path: Path) -> None:
    server.server_close()
    with pytest.raises(Error, match="Connection refused") as caught:
        download(server.url("good"), tmp_path / "file.bin", SHA256, retries=1)
    assert "\n" not in str(caught.value) and names(tmp_path) == []


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://example.org/a", "/etc/passwd", "https://example.org/", ""]
)
def test_other_addresses_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(Error, match="not an http or https address of a file"):
        download(url, tmp_path / "file.bin", SHA256)


@pytest.mark.parametrize("sha256", ["", "abc", SHA256[:-1] + "g", f"sha256:{SHA256}", SHA256 + "\n"])
def test_malformed_hashes_are_refused(tmp_path: Path, sha256: str) -> None:
    with pytest.raises(Error, match="takes 64 hexadecimal digits") as caught:
        download("https://example.org/file.bin", tmp_path / "file.bin", sha256)
    assert "\n" not in str(caught.value)


def test_no_space_and_no_permission(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plain").write_text("")
    with pytest.raises(Error, match="cannot write there"):
        download(server.url("good"), tmp_path / "plain" / "file.bin", SHA256)
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(Error, match="needs 3,072,000 bytes, and the disk has 1,000,000 free"):
        download(server.url("good"), tmp_path / "file.bin", SHA256)
    assert names(tmp_path) == ["plain"]


def test_two_at_once_fetch_it_once(server: Server, tmp_path: Path) -> None:
    def work() -> None:
        paths.append(download(server.url("stall"), tmp_path / "file.bin", SHA256, timeout=1.0))

    paths: list[Path] = []
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths == [tmp_path / "file.bin"] * 3
    check(paths[0])
    assert len(server.ranges) == 2
