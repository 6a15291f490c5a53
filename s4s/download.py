"""One way to fetch a file: resumed, retried, and checked before it gets its name."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from s4s import files
from s4s.errors import Error
from s4s.files import cache_dir as cache_dir

try:
    import fcntl
except ImportError:  # Windows: without the lock, two processes must not fetch one file at the same time
    fcntl = None  # type: ignore[assignment]

CHUNK = 1 << 18
HEADWAY = 1 << 20  # an attempt that brings this much further starts the count of retries again
WAIT = 1.0  # seconds before the first retry; doubles up to a minute
PATIENT = frozenset({408, 425, 429, 500, 502, 503, 504})  # HTTP statuses that may pass


def download(
    url: str,
    path: Path | str | None,
    sha256: str | None,
    *,
    licence: str | None = None,
    offline: bool = False,
    retries: int = 5,
    timeout: float = 30.0,
) -> Path:
    """Fetch a file, unless it is there already.

    Args:
        url: http or https.
        path: where the file goes; None is its own name in ``cache_dir()``.
        sha256: what its SHA-256 must be; None accepts any, prints what it is, and never resumes.
        licence: terms of the file, printed before it is fetched.
        offline: never touch the network.
        retries: how often to try again in a row without getting a megabyte further.
        timeout: seconds a connection may stall.

    Returns:
        The path of the file.

    Raises:
        Error: no network, no such file, wrong contents, no space; says how to put the file there by hand.
    """
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    if urlsplit(url).scheme not in ("http", "https") or not name:
        raise Error(f"{url}: not an http or https address of a file")
    path = cache_dir() / name if path is None else Path(path)
    sha256 = None if sha256 is None else parse_sha256(sha256)
    if _is_there(path, sha256):
        return path
    if offline:
        raise _by_hand(url, path, sha256, "offline mode is on")
    print(f"{path.name}: fetching {url}" + (f" (licence: {licence})" if licence else ""), file=sys.stderr)
    with _locked_part(path) as part:
        if _is_there(path, sha256):  # another process was faster
            return path
        try:
            _fetch_checked(url, part, sha256, retries, timeout)
        except (OSError, HTTPException) as error:
            raise _by_hand(url, path, sha256, _reason(error)) from error
        os.replace(part.name, path)
    return path


def parse_sha256(text: str) -> str:
    """A SHA-256 in lower case, or ``Error``."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise Error(f"{text[:80]!a} is not a SHA-256: it takes 64 hexadecimal digits")
    return text.lower()


def _is_there(path: Path, sha256: str | None) -> bool:
    if not path.exists():
        return False
    if sha256 is not None and (actual := files.sha256(path)) != sha256:
        raise Error(f"{path}: has SHA-256 {actual}, not {sha256}; remove the file to fetch it again")
    return True


def _by_hand(url: str, path: Path, sha256: str | None, reason: str) -> Error:
    hint = f" (SHA-256 {sha256})" if sha256 else ""
    where = path.absolute()
    return Error(f"{path.name}: cannot fetch {url}: {reason}; download it elsewhere and put it at {where}{hint}")


@contextmanager
def _locked_part(path: Path) -> Iterator[IO[bytes]]:
    """The unfinished file beside ``path``, open and locked against other processes."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _open_locked(part)
    except OSError as error:
        raise Error(f"{part}: cannot write there ({error.strerror})") from error
    with file:
        try:
            yield file
        finally:
            if os.path.exists(part) and os.path.getsize(part) == 0:
                part.unlink()


def _open_locked(part: Path) -> IO[bytes]:
    while True:
        file = open(part, "r+b", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_CREAT, 0o666))  # noqa: SIM115
        if fcntl is not None:
            with suppress(OSError):  # some cluster file systems have no locks
                fcntl.flock(file, fcntl.LOCK_EX)
        try:
            if os.path.samestat(os.fstat(file.fileno()), os.stat(part)):
                return file
        except FileNotFoundError:
            pass  # renamed or removed by the process that held the lock before
        file.close()


def _fetch_checked(url: str, part: IO[bytes], sha256: str | None, retries: int, timeout: float) -> None:
    """Fetch until the hash is right; a resumed file with a wrong one is fetched once more from the start."""
    if sha256 is None:
        part.truncate(0)
    resumed = part.seek(0, os.SEEK_END) > 0
    _fetch(url, part, sha256 is not None, retries, timeout)
    actual = files.sha256(Path(part.name))
    if sha256 is None:
        print(f"{Path(part.name).stem}: SHA-256 {actual}, not checked", file=sys.stderr)
    elif actual != sha256:
        part.truncate(0)
        if not resumed:
            raise OSError(f"what came has SHA-256 {actual}, so it is another file or was altered on the way")
        _fetch_checked(url, part, sha256, retries, timeout)


def _fetch(url: str, part: IO[bytes], resume: bool, retries: int, timeout: float) -> None:
    failures = 0
    while True:
        have = part.seek(0, os.SEEK_END)
        try:
            return _transfer(url, part, have, timeout)
        except HTTPError as error:
            error.close()
            if error.code not in PATIENT:
                raise
            last: Exception = error
        except (OSError, HTTPException) as error:
            last = error
        if not resume:
            part.truncate(0)
        failures = 0 if part.seek(0, os.SEEK_END) - have > HEADWAY else failures + 1
        if failures > retries:
            raise last
        time.sleep(min(WAIT * 2 ** (failures - 1), 60))


def _transfer(url: str, part: IO[bytes], have: int, timeout: float) -> None:
    """One connection: the rest of the file if the server can, else all of it."""
    headers = {"User-Agent": "s4s", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        with urlopen(Request(url, headers=headers), timeout=timeout) as response:
            _receive(response, part, have)
    except HTTPError as error:
        if error.code != 416 or not have:  # the server has nothing beyond what is here
            raise
        error.close()
        if error.headers.get("Content-Range") != f"bytes */{have}":
            part.truncate(0)
            raise ConnectionError("the unfinished file is longer than the server's; starting again") from error


def _receive(response: HTTPResponse, part: IO[bytes], have: int) -> None:
    if not (response.status == 206 and (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-")):
        have = 0
        part.truncate(0)
        if response.status == 206:
            raise ConnectionError("the server sent another part of the file than asked for")
    length = response.headers.get("Content-Length")
    total = have + int(length) if length and length.isdecimal() and len(length) < 20 else None
    free = shutil.disk_usage(Path(part.name).parent).free
    if total is not None and total - have > free:
        raise Error(f"{part.name}: needs {total - have:,} bytes, and the disk has {free:,} free")
    part.seek(have)
    label = Path(part.name).stem
    with tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=label, disable=None) as bar:
        while chunk := response.read1(CHUNK):
            _write(part, chunk)
            bar.update(len(chunk))
    if total is not None and part.tell() != total:
        raise ConnectionError(f"the connection closed after {part.tell():,} of {total:,} bytes")


def _write(part: IO[bytes], chunk: bytes) -> None:
    try:
        rest = memoryview(chunk)
        while rest:
            rest = rest[part.write(rest) :]
    except OSError as error:
        raise Error(f"{part.name}: cannot write ({error.strerror})") from error


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        text = f"the server answers {error.code} {error.reason}"
    elif isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError):
        text = "the connection stalls"
    else:
        text = str(error.reason if isinstance(error, URLError) else error) or type(error).__name__
    return "".join(c if c.isprintable() else " " for c in text)[:300]
