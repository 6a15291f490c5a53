"""Writing so that nothing half-made is ever seen: a unique temporary name beside the target, then a rename.

Reading text as people save it, and paths as they write them.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from s4s.errors import Error

MARKS = {  # of encodings; those of UTF-32 begin with those of UTF-16
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def at_home(path: str | os.PathLike[str]) -> Path:
    """A path as people write it: a leading ``~`` is the home folder.

    Raises:
        Error: it is none, such as None or a solver.
    """
    try:
        name = os.fsdecode(path)
    except TypeError:
        name = ""
    if not name or "\0" in name:
        given = repr(path) if path is None or isinstance(path, str | bytes) else f"a {type(path).__name__}"
        raise Error(f"the path of a file or folder is needed, such as 'solver.json', got {given:.60}")
    return Path(os.path.expanduser(name))


def cache_dir() -> Path:
    """Where downloads go: ``$S4S_CACHE``, else ``$XDG_CACHE_HOME/s4s``, else ``~/.cache/s4s``."""
    if os.environ.get("S4S_CACHE"):
        return at_home(os.environ["S4S_CACHE"])
    return at_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "s4s"


def read_text(path: Path) -> str:
    """The text of a file, as ``decoded`` has it.

    Raises:
        OSError: the file cannot be read.
        Error: it is not text.
    """
    try:
        return decoded(path.read_bytes())
    except Error as error:
        raise Error(f"{path}: {error}") from error


def decoded(data: bytes) -> str:
    """The text of UTF-8, or of another Unicode encoding with its byte order mark, without the mark.

    Raises:
        Error: anything else, for which no one encoding can be assumed.
    """
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise Error(f"not {encoding.removesuffix('-sig').upper()} text: byte {data[error.start]:#04x} at position "
                    f"{error.start}; save it as UTF-8") from error  # fmt: skip


def read_json(path: str | os.PathLike[str]) -> Any:
    """What a solver file holds, unchecked."""
    file = at_home(path)
    try:
        return json.loads(read_text(file))
    except IsADirectoryError as error:
        raise Error(f"{path}: a folder; name the solver's file in it, such as solvers.json") from error
    except OSError as error:
        raise Error(f"{path}: cannot read the solver file: {error.strerror}") from error
    except Error as error:
        raise Error(f"{path}: not a solver file ({str(error).removeprefix(f'{path}: ')})") from error
    except (ValueError, RecursionError) as error:
        raise Error(f"{path}: not a solver file, or a truncated one ({error}); fit or export it again") from error


def require_place(folder: Path) -> None:
    """Raise unless a folder can be there: none of its parts is a link to nowhere."""
    for part in (folder, *folder.parents):
        if part.is_dir():
            return
        if part.is_symlink():
            raise Error(f"{part}: is a link to {os.readlink(part)}, which is not there; mount it or change the link")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to; rename it to ``path`` on success, remove it on failure.

    Raises:
        Error: no room, no permission, or whatever else the disk says; ``path`` is as it was before.
    """
    try:
        require_place(path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            os.chmod(temporary, 0o666 & ~_umask())
            _flush(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise Error(f"{path}: cannot write it ({reason}); what was there before is as it was") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whole or not at all, with the same bytes every time.

    The library puts metadata in random order, and the hash of trained weights is part of every score's record.
    """
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        save_file(dict(tensors), temporary, dict(metadata))
        with temporary.open("rb+") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
            text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
            assert len(text) == size, "the same entries in another order are as long as before"
            file.seek(8)
            file.write(text)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Have the disk hold a file's bytes before its name: losing power must not leave an empty file under it."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
