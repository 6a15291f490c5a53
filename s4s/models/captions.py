"""Prompts from the captions of COCO val2014 (CC BY 4.0): which ones, in which order, under which hash."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from s4s.download import download
from s4s.errors import Error
from s4s.files import at_home, decoded
from s4s.values import whole

LICENCE = "CC BY 4.0, COCO Consortium"
MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class CaptionList:
    """A published list of captions, one a line.

    Args:
        url: where it is fetched from.
        sha256: of the file.
        count: captions in it.
    """

    url: str
    sha256: str
    count: int


COCO_30K = CaptionList(
    "https://raw.githubusercontent.com/3145tttt/GAS/f090ede4f90f5a65ca46a4440ce252c831cdc0d7/data/coco_captions.txt",
    "edabd2a556026cbf5d36a5fffa35ad43d7ba71b72f6d640b727c1edefb7f1945",
    30_000,
)
"""The 30,000 captions that LD3 and GAS score with; FID references must be of the images paired with them."""


def prompts(source: str, n: int, *, offline: bool = False) -> list[str]:
    """The first ``n`` prompts of a source.

    Args:
        source: ``coco`` is ``COCO_30K``, fetched and hash-checked; else a COCO annotation file (``.json``), or a text
            file with one prompt a line.
        n: how many; 1 or more.
        offline: never touch the network.

    Raises:
        Error: the file is missing, of another format, or has fewer than ``n`` captions.
    """
    path = place(source, offline=offline)
    try:
        return select(_lines(path, _text(path), published=source == "coco"), n)
    except Error as error:
        raise Error(f"{path}: {error}") from error


def every(source: str | os.PathLike[str]) -> list[str]:
    """All prompts of a file.

    Raises:
        Error: the file is missing, empty, of another format, or has a blank line.
    """
    path = at_home(source)
    text = _text(path)
    try:
        found = _lines(path, text)
        if not any(line.strip() for line in found):
            raise Error("holds no prompts; write one a line")
        return select(found, len(found))
    except Error as error:
        raise Error(f"{path}: {error}") from error


def neutral() -> list[str]:
    """64 short prompts of everyday things, for whoever has none."""
    return files("s4s.models").joinpath("prompts.txt").read_text(encoding="utf-8").splitlines()


def place(source: str, *, offline: bool = False) -> Path:
    """The file of a source, fetched and checked if it is ``coco``."""
    if source == "coco":
        return download(COCO_30K.url, None, COCO_30K.sha256, licence=LICENCE, offline=offline)
    return at_home(source)


def select(captions: Sequence[str], n: int) -> list[str]:
    """The selection rule: the first ``n`` in file order."""
    if whole(n, "n_prompts", 0) < 1 or n > len(captions):
        raise Error(f"holds {len(captions):,} captions; {n:,} are asked for")
    chosen = list(captions[:n])
    blank = next((i for i, caption in enumerate(chosen, 1) if not caption.strip()), None)
    if blank:
        raise Error(f"caption {blank} is blank, which would be sampled as the prompt of no text; remove it")
    return chosen


def sha256(captions: Sequence[str]) -> str:
    """SHA-256 of a list of captions as a text file, each line ended by a newline."""
    return hashlib.sha256("".join(f"{caption}\n" for caption in captions).encode()).hexdigest()


def facts(source: str, captions: Sequence[str]) -> dict[str, Any]:
    """What a result must say about its prompts."""
    digest = sha256(captions)
    rule = "the first n in file order; sample i gets prompt i modulo n"
    known = "the 30,000 COCO val2014 captions of LD3" if digest == COCO_30K.sha256 else None
    return {"source": source, "n": len(captions), "rule": rule, "sha256": digest, "known_as": known}


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise Error(f"more than {MAX_BYTES:,} bytes, not a list of them")
        return decoded(data)
    except OSError as error:
        raise Error(f"{path}: cannot read the prompts ({error.strerror})") from error
    except Error as error:
        raise Error(f"{path}: the prompts are {error}") from error


def _lines(path: Path, text: str, *, published: bool = False) -> list[str]:
    """The captions of a file; a published one is taken as it is, since it has its hash to keep."""
    if path.suffix.lower() == ".json":
        return _annotated(text)
    lines = text if published else text.replace("\r\n", "\n")
    return lines.removesuffix("\n").split("\n") if lines else []


def _annotated(text: str) -> list[str]:
    """The captions of a COCO annotation file, in file order, each on one line."""
    try:
        made = [annotation["caption"].replace("\n", " ") for annotation in json.loads(text)["annotations"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Error("not a COCO caption file: needs 'annotations', each with a 'caption'") from error
    return made
