"""The chain of hashes: what a stage reads is checked against what its maker recorded, down to the model's own files.

A stage says in one line what it reads and in one what it made from it. Nothing here imports torch: Snakemake walks the
chain on every start.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from s4s import records
from s4s.errors import Error, Notice
from s4s.files import at_home, sha256, write_text
from s4s.models.folder import hashes
from s4s.records import Record, Walk
from s4s.stages.cells import LATER, Cell, cells, code_of, curves, made_from

Config = Mapping[str, Any]
MAKERS = {"models": "download", "teacher": "teacher", "solvers": "fit", "fits": "fit", "curves": "fit",
          "paths.json": "paths", "samples": "sample", "features": "features", "metrics": "evaluate"}  # fmt: skip
CONFIG_OF = {"download": "train", "gits": "textbook", "even": "textbook", "transfer": "score"}
"""The part of the config that a stage depends on, where it is not its own."""


class Chain:
    """The results of a config, each with a record of what it was made from.

    Args:
        config: what is asked for; None, of results whose config is not known, asks for nothing.
        root: folder of the benchmark's results.
    """

    def __init__(self, config: Config | None, root: Path) -> None:
        self.config, self.root = config, root

    def walk(self, *, strict: bool = False) -> Walk:
        """A walk that also compares with the config; ``strict`` is of ``Walk``."""
        return Walk(self.root, self._part, strict=strict)

    def read(self, *paths: Path) -> dict[str, str]:
        """Check results, and all they were made from, before a stage reads them; their hashes go into its record.

        Raises:
            Error: one is missing, has changed, or was made from something that has; names both, and what to do.
        """
        walk, found = self.walk(), {}
        for path in paths:
            name = self.name(path)
            if (digest := walk.hash(path)) is None:
                raise Error(f"{path}: cannot read it (no such file); run `s4s {self._maker(name)}` first")
            for fault in walk.faults(name).values():
                raise Error(fault)
            found[name] = digest
        return found

    def follows(self, path: Path) -> bool:
        """Whether a result is there and follows from all that is there."""
        return path.exists() and not self.walk().faults(self.name(path))

    def note(self, path: Path, stage: str, reads: Mapping[str, str], outside: Mapping[str, str] | None = None) -> None:
        """Record what a result was made from.

        Args:
            path: the result, just written.
            stage: as in ``s4s.stages.cells.made_from``, or the command that made it.
            reads: from ``read``.
            outside: from ``outside``.
        """
        name = self.name(path)
        made = Record(stage, sha256(path), self._part(stage, name) or {}, reads, outside or {})
        made.write(self.root, name)

    def go_on(self, path: Path, stage: str, reads: Mapping[str, str], outside: Mapping[str, str]) -> None:
        """Before a stage goes on with what it left unfinished: remove that if it was made from anything else."""
        name = self.name(path)
        wanted = Record(stage, "", self._part(stage, name) or {}, reads, outside)
        left = [part for part in (path, _further(path)) if part.exists()]
        if left and records.read(self.root, name) != wanted:
            said = f"{path}: of another config, or of files that have changed; this {stage} starts anew"
            warnings.warn(said, Notice, stacklevel=2)
            for part in left:
                part.unlink()
        wanted.write(self.root, name)

    def forget(self, path: Path) -> None:
        """Remove the record of what is unfinished no more, and what a further part of it left."""
        _further(path).unlink(missing_ok=True)
        records.path_of(self.root, self.name(path)).unlink(missing_ok=True)

    def tidy(self, folder: Path, made: Iterable[Path]) -> None:
        """Remove what an earlier config left in a folder of results and this one does not make; other files stay."""
        kept = set(made)
        for path in folder.glob("*"):
            if path not in kept and records.path_of(self.root, self.name(path)).exists():
                path.unlink()
                self.forget(path)

    def mark_broken(self, path: Path) -> None:
        """Write down, if there are any, the links that broke between table, page, figures and all they were made from.

        What has no record among tables and figures is a file of somebody's own.
        """
        ends = [file for file in (self.table, self.root / "report.html") if file.exists()]
        drawn = [file for folder in ("tables", "figures") for file in sorted((self.root / folder).glob("[!.]*"))]
        ends += [file for file in drawn if records.path_of(self.root, self.name(file)).exists()]
        walk, faults = self.walk(), dict[str, str]()
        for file in ends:
            faults |= walk.faults(self.name(file))
        if faults:
            write_text(path, json.dumps({"at": time.time(), "faults": list(faults.values())}, indent=1))

    def outdated(self) -> list[Path]:
        """Results that by their own records were made from another config, or by older code; no file is hashed."""
        walk, kept, found = self.walk(), self.root / records.FOLDER, []
        for path in sorted(kept.rglob("*.json")):
            name = path.relative_to(kept).as_posix().removesuffix(".json")
            with suppress(Error):  # a damaged record is no record
                if (self.root / name).exists() and walk.asked_otherwise(name):
                    found.append(self.root / name)
        return found

    @property
    def table(self) -> Path:
        return self.root / "fid.csv"

    def name(self, path: Path) -> str:
        """Of a result, as records have it."""
        return path.relative_to(self.root).as_posix()

    def _maker(self, name: str) -> str:
        """The command that makes a result."""
        trained = self.config is not None and self.config["model"]["type"] == "digits"
        kind = name.split("/")[0]
        return "train" if trained and kind == "models" else MAKERS.get(kind, "table")

    def _part(self, stage: str, name: str) -> dict[str, Any] | None:
        """What the config asks of a result, as JSON reads it back; None where it says nothing."""
        if self.config is None or stage in ("config", "scoring"):
            return None
        cell, part = self._cells.get(PurePosixPath(name).stem.removesuffix(".unfinished")), dict(self.config)
        if stage in ("textbook", "fit", "score") and cell is None:
            return None  # left by a config that asked for more
        if stage == "polish":
            part = {
                "score": made_from(self.config, "score"),
                "curve": made_from(self.config, "curve"),
                "code": LATER["curve"],
            }
        elif stage not in ("paths", "table", "figure"):
            part = made_from(self.config, CONFIG_OF.get(stage, stage))
        if stage == "curve":
            if (members := self._curves.get(PurePosixPath(name).name.split(".")[0])) is None:
                return None
            part |= {"cell": _asked(replace(members[0], nfe=0)), "nfe": [member.nfe for member in members]}
            part |= code_of(self.config, members[0])
        if stage in ("textbook", "fit"):
            assert cell is not None
            part |= {"cell": _asked(cell)} | (code_of(self.config, cell) if stage == "fit" else {})
        if stage == "score":
            part |= {"benchmark": self.config["benchmark"], "n": self.config["sample"]["n"]}
        made: dict[str, Any] = json.loads(json.dumps(part))
        return made

    @cached_property
    def _curves(self) -> dict[str, list[Cell]]:
        return curves(self.config or {})

    @cached_property
    def _cells(self) -> dict[str, Cell]:
        return {cell.name: cell for cell in cells(self.config or {})}


def _further(path: Path) -> Path:
    """Where a fit that leaves calls out keeps its further part; see ``s4s.learn.unfinished``."""
    return path.with_name(f"{path.name}.calls")


def _asked(cell: Cell) -> dict[str, Any]:
    """What a config asks of a fit; ``fitted`` of curves alone, ``settings`` where it has any."""
    return {key: value for key, value in asdict(cell).items() if key not in ("fitted", "settings") or value}


def outside(*paths: Path | str) -> dict[str, str]:
    """Hashes of files that are not results, for a record: by the names that the config gives them."""
    return {str(path): records.content(at_home(path), exact=False) for path in paths}


def given(config: Config, stage: str) -> dict[str, str]:
    """Hashes of the files on this machine that a config names and a stage, ``train`` or ``score``, reads."""
    model, score = config["model"], config.get("score", {})
    if stage == "score":
        named = [score.get("reference", {}).get("where"), score.get("extractor", {}).get("weights")]
    else:
        named = [model.get("prompts"), *(model.get(key, {}).get("path") for key in ("weights", "first_stage"))]
    found = outside(*(name for name in named if name and at_home(name).exists()))
    folder = at_home(model["path"]) if stage == "train" and model.get("path") else None
    return found | ({} if folder is None else hashes(folder))
