"""What every import of published weights shares: the file opened once, its hash, and outputs whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from safetensors.torch import save_file
from torch import Tensor

from s4s.download import parse_sha256
from s4s.errors import Error
from s4s.files import replacing, sha256


@contextmanager
def opened(path: Path, most: int) -> Iterator[tuple[IO[bytes], int]]:
    """A regular file of 1 to ``most`` bytes and its size, opened once: what is hashed is what is parsed."""
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        with open(path, "rb", opener=lambda name, mode: os.open(name, mode | flags)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise Error(f"{path}: is not a regular file")
            if not 0 < status.st_size <= most:
                raise Error(f"{path}: has {status.st_size:,} bytes; a network has between 1 and {most:,}")
            yield file, status.st_size
    except OSError as error:
        if path.is_symlink():
            raise Error(f"{path}: is a symbolic link; give the file itself") from error
        raise Error(f"{path}: cannot read the file ({error.strerror or error})") from error


def check_hash(path: Path, actual: str, expected: str | None, allow_unverified: bool, option: str = "--sha256") -> None:
    """Raise unless a file has the SHA-256 that was asked for with ``option``, or none was and that is allowed."""
    if expected is None and not allow_unverified:
        raise Error(f"{path}: no SHA-256 to check it against; this file's is {actual}: compare it with the publisher's "
                    f"and pass it with {option}, or pass --allow-unverified")  # fmt: skip
    if expected is not None and parse_sha256(expected) != actual:
        raise Error(f"{path}: has SHA-256 {actual}, not {expected}: damaged or another file; get it again")


def check_request(out: Path, *hashes: str | None) -> None:
    """Refuse an impossible output or hash before anything is read."""
    if out.suffix != ".safetensors" or out.is_dir():
        raise Error(f"{out}: the output must be a file name that ends in .safetensors")
    for text in hashes:
        if text is not None:
            parse_sha256(text)


def write(
    out: Path, tensors: Mapping[str, Tensor], parameters: int, describe: Callable[[dict[str, Any]], str]
) -> dict[str, Any]:
    """Write ``out`` and the ``.json`` beside it through temporary names; return what the latter says.

    Args:
        out: the ``.safetensors`` file.
        tensors: what goes into it, float32.
        parameters: how many of the numbers were trained.
        describe: facts of the written file -> the text of the ``.json``.
    """
    with replacing(out.with_suffix(".json")) as record, replacing(out) as weights:
        save_file(dict(tensors), weights, {"format": "pt"})
        about = {"sha256": sha256(weights), "tensors": len(tensors), "parameters": parameters, "dtype": "float32"}
        text = describe(about)
        record.write_text(text, encoding="utf-8")
    result: dict[str, Any] = json.loads(text)
    return result
