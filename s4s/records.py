"""What a result was made from, in a file of its own, and the walk from a result to all that it was made from.

The record of ``solvers/x.json`` is ``records/solvers/x.json.json``: the name and SHA-256 of the file, its config part,
and the SHA-256 of all that was read to make it. A walk hashes what is there now, and names every broken link.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from s4s.errors import Error
from s4s.files import at_home, cache_dir, sha256, write_text

FOLDER = "records"
OF_CONFIG = "config of "  # begins the name of the fault of a result that the config does not ask for
LARGE = 8 << 20  # bytes; smaller files are hashed every time, larger ones when their size or times change
SETTLED = 2.0  # seconds after its last change from which a file's hash may be remembered: clocks of disks are coarse

COMMANDS = {"textbook": "fit", "gits": "fit", "even": "fit", "curve": "fit", "polish": "evaluate", "score": "evaluate",
            "scoring": "download"}  # fmt: skip
"""What makes the result of a stage, where the command has another name."""

Part = Callable[[str, str], Mapping[str, Any] | None]
"""``(stage, name of a result) -> the part of the config it must be made from``; None where no config says so."""


@dataclass(frozen=True)
class Record:
    """What a file was made from.

    Args:
        stage: the command that made it.
        sha256: of the file.
        made_from: the part of the config.
        reads: files below the same folder of results -> SHA-256.
        outside: files elsewhere, as the config names them -> SHA-256; a folder stands for the files in it.
    """

    stage: str
    sha256: str
    made_from: Mapping[str, Any] = field(default_factory=dict)
    reads: Mapping[str, str] = field(default_factory=dict)
    outside: Mapping[str, str] = field(default_factory=dict)

    def write(self, root: Path, name: str) -> None:
        """Write the record of the file ``name`` of a folder of results, unless it says the same."""
        path, text = path_of(root, name), self._text(name)
        if not path.exists() or path.read_bytes() != text.encode():
            write_text(path, text)

    def _text(self, name: str) -> str:
        body = {"file": name} | json.loads(json.dumps(asdict(self)))
        return _dumps(body | {"seal": _sha256(_dumps(body))})


def path_of(root: Path, name: str) -> Path:
    """Where the record of a file of results is."""
    return root / FOLDER / f"{name}.json"


def read(root: Path, name: str) -> Record | None:
    """The record of a file of results; None if it has none.

    Raises:
        Error: a record that is not as it was written, or that of another file.
    """
    path = path_of(root, name)
    try:
        text = path.read_bytes().decode()
        body = json.loads(text)
        del body["seal"], body["file"]
        found = Record(**body)
        if found._text(name) == text:
            return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        pass
    raise Error(f"{root / name}: its record {path} is not as it was written, or is another file's; make the file again")


def _dumps(body: Mapping[str, Any]) -> str:
    return json.dumps(body, indent=1, sort_keys=True) + "\n"


def content(path: Path, *, exact: bool = True) -> str:
    """SHA-256 of a file; of a folder, that of the names and hashes of the files in it.

    ``exact`` hashes every byte. Without it, large files whose sizes and times are as before are not read again; their
    times of change (ctime) are among them, which no program sets: an edit that puts the old date back is seen.
    """
    files = [path] if not path.is_dir() else sorted(p for p in path.iterdir() if p.is_file() and p.name[0] != ".")
    if exact or sum(p.stat().st_size for p in files) < LARGE:
        return _hashed(path, files)
    return _remembered(path, files)


def _hashed(path: Path, files: Sequence[Path]) -> str:
    if files == [path]:
        return sha256(path)
    return _sha256(json.dumps([[p.name, sha256(p)] for p in files]))


def _remembered(path: Path, files: Sequence[Path]) -> str:
    """The hash that was found before, kept in the cache with the sizes and times it was found at."""
    kept = cache_dir() / "hashes" / f"{_sha256(str(path.resolve()))}.json"
    stamp, newest = _stamp(files)
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(kept.read_text(encoding="utf-8"))
        if known["stamp"] == stamp:
            return str(known["sha256"])
    digest = _hashed(path, files)
    if _stamp(files)[0] == stamp and time.time() - newest > SETTLED:
        with suppress(Error):  # a cache that cannot be written only costs time
            write_text(kept, json.dumps({"path": str(path), "stamp": stamp, "sha256": digest}))
    return digest


def _stamp(files: Sequence[Path]) -> tuple[str, float]:
    """Names, sizes, times and places of files, in short; and the time of the last change."""
    found = [(p.name, p.stat()) for p in files]
    listed = [[name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for name, s in found]
    return _sha256(json.dumps(listed)), max(max(s.st_mtime, s.st_ctime) for _, s in found)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Walk:
    """Goes from results to all that they were made from; every file is hashed once, every link looked at once.

    Args:
        root: folder of results.
        part: what the config asks of a result; by default nothing.
        strict: for `s4s verify`: every byte is hashed, and a file of results that is gone is a broken link. Stages need
            what they read and no more, so to them it is not.
    """

    def __init__(self, root: Path, part: Part = lambda stage, name: None, *, strict: bool = False) -> None:
        self.root, self.part, self.strict = root, part, strict
        self.absent: set[str] = set()
        self._hashes: dict[Path, str | None] = {}
        self._records: dict[str, Record | None] = {}
        self._faults: dict[str, dict[str, str]] = {}

    def hash(self, path: Path) -> str | None:
        """SHA-256 of what is there now; None if nothing is."""
        if path not in self._hashes:
            try:
                self._hashes[path] = content(path, exact=self.strict)
            except FileNotFoundError:
                self._hashes[path] = None
            except OSError as error:
                raise Error(f"{path}: cannot read it ({error.strerror})") from error
        return self._hashes[path]

    def faults(self, name: str) -> dict[str, str]:
        """Links that broke between a result and all it was made from: what changed -> one line."""
        if name not in self._faults:
            self._faults[name] = {}  # for a record that, damaged or forged, names itself
            try:
                self._faults[name] = self._look(name)
            except Error as error:
                self._faults[name] = {name: str(error)}
        return self._faults[name]

    def asked_otherwise(self, name: str) -> bool:
        """Whether the record of a result says another config, or older code, than is asked for now."""
        record = self._record(name)
        return record is not None and bool(self._config(record, name))

    def elsewhere(self, name: str) -> Path:
        """A file outside the results, as the config names it: from the folder that holds ``results``, or from here."""
        given = at_home(name)
        beside = self.root.absolute().parent.parent / given
        return beside if beside.exists() else given

    def _look(self, name: str) -> dict[str, str]:
        path, record = self.root / name, self._record(name)
        actual = self.hash(path)
        if record is None:
            what = "nothing says what it was made from" if actual else "is not there"
            return {name: f"{path}: {what}; remove it and run snakemake, or the command of its stage"}
        if actual is None and self.strict:
            return {name: f"{path}: is not there, and results were made from it"}
        if actual not in (None, record.sha256):
            return {name: f"{path}: has changed since it was made: SHA-256 {record.sha256} then, {actual} now; "
                          f"{again(record.stage)}"}  # fmt: skip
        found = self._config(record, name)
        for other, known in record.reads.items():
            found |= self.faults(other)
            now = self.hash(self.root / other) or getattr(self._record(other), "sha256", None)
            if other not in found and now != known:
                found[other] = _changed(record, path, self.root / other, known, now)
        for other, known in record.outside.items():
            now = self.hash(self.elsewhere(other))
            if now is None:
                self.absent.add(other)
            elif now != known:
                found[other] = _changed(record, path, self.elsewhere(other), known, now)
        return found

    def _record(self, name: str) -> Record | None:
        if name not in self._records:
            self._records[name] = read(self.root, name)
        return self._records[name]

    def _config(self, record: Record, name: str) -> dict[str, str]:
        """Whether the config asks for what a result was made from."""
        wanted = self.part(record.stage, name)
        if wanted in (None, record.made_from):
            return {}
        return {f"{OF_CONFIG}{name}": f"{self.root / name}: {another_config(record.made_from, wanted)}"}


def another_config(found: Any, wanted: Any) -> str:
    """How two parts of a config differ: the first key that does; the state of the code only where nothing else does."""
    of_code, where, one, other = first_difference(found, wanted)
    if of_code:
        return "made by another state of the code, which found something else; run snakemake to renew it"
    return (f"made from another config ({'.'.join(where)} = {one!r} there, {other!r} in this one);"
            " run snakemake to renew it, or choose another benchmark name")  # fmt: skip


def first_difference(found: Any, wanted: Any) -> tuple[bool, tuple[str, ...], Any, Any]:
    """Of two parts of a config that differ: whether in the state of the code alone, the key's place, both values."""
    return min(_differences(found, wanted), key=lambda each: each[:2])


def _differences(found: Any, wanted: Any, *where: str) -> Iterator[tuple[bool, tuple[str, ...], Any, Any]]:
    """Every key that differs, all the way down: whether it is the state of the code, its place, both values."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in {*found, *wanted}:
            if found.get(key, ...) != wanted.get(key, ...):
                yield from _differences(found.get(key), wanted.get(key), *where, key)
    else:
        yield bool(where) and where[-1].startswith("code"), where, found, wanted


def _changed(record: Record, path: Path, other: Path, known: str, now: str | None) -> str:
    return f"{path}: made from {other} with SHA-256 {known}, which now has {now}; {again(record.stage)}"


def again(stage: str) -> str:
    """What to do about a result that no longer follows."""
    if stage == "config":
        return "run snakemake again"
    command = COMMANDS.get(stage, stage)
    return f"run `s4s {command}` again, or remove it and run snakemake"
