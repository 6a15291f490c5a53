"""``s4s verify``: which numbers no longer follow from what they were made from, and which link broke."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from s4s.errors import Error
from s4s.stages.cells import cells
from s4s.stages.chain import Chain
from s4s.stages.config import check
from s4s.stages.written import read

METRICS, TRANSFERS = "metrics/[!.]*.json", "transfers/[!.]*.json"
MADE_OF_SCORES = ("fid.csv", "tables/[!.]*.*", "figures/[!.]*.*", "report.html")


def numbers(folder: Path) -> list[Path]:
    """Metrics of the cells that a folder's ``config.yaml`` asks for; of all cells where none there can be read.

    Raises:
        Error: no such numbers there.
    """
    found = [folder / name for name in _asked(folder, _chain(folder)[0])]
    if not found:
        raise _none(folder)
    return found


def report(folder: Path) -> tuple[list[str], bool]:
    """Lines about the numbers of a folder of results, and whether all that its config asks for follow.

    Raises:
        Error: no numbers there.
    """
    chain, lines = _chain(folder)
    asked, pages = _asked(folder, chain), _names(folder, MADE_OF_SCORES)
    scores = [*asked, *_names(folder, (TRANSFERS,))]
    if not scores:
        raise _none(folder)
    walk, broken = chain.walk(strict=True), 0
    for name in scores:
        faults = walk.faults(name)
        broken += bool(faults)
        lines += [f"{_number(folder, name)}: {fault}" for fault in faults.values()]
    said = {fault for name in scores for fault in walk.faults(name)}
    for name in pages:
        faults = walk.faults(name)
        lines += [f"{name}: {fault}" for key, fault in faults.items() if key not in said]
        said |= set(faults)
    follow = not lines
    lines += [f"not asked for by config.yaml: {name}" for name in _names(folder, (METRICS,)) if name not in asked]
    lines += [f"not checked, for it is not on this machine: {name}" for name in sorted(walk.absent)]
    lines.append(f"{folder}: {len(scores) - broken} of {len(scores)} numbers follow from all that they were made from")
    return lines, follow


def require_following(folders: Sequence[Path]) -> None:
    """Raise unless numbers of these folders of results may go into one table.

    Raises:
        Error: a folder given twice, or a number that no longer follows from what it was made from.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise Error("a folder is given twice; give each once")
    for folder in folders:
        lines, follows = report(folder)
        if not follows:
            said = f"{folder}: {lines[0]} (and so on: `s4s verify {folder}`)"
            raise Error(f"{said}; only numbers that follow go into one table")


def _asked(folder: Path, chain: Chain) -> list[str]:
    """Names of the metrics of the cells that a config asks for, where it is known: an older one may have left more."""
    every = _names(folder, (METRICS,))
    if chain.config is None:
        return every
    names = {f"metrics/{cell.name}.json" for cell in cells(chain.config)}
    return [name for name in every if name in names]


def _none(folder: Path) -> Error:
    asked = " that its config.yaml asks for" if _names(folder, (METRICS,)) else ""
    return Error(
        f"{folder}: holds no numbers{asked} (metrics/*.json); give the folder of a benchmark, as results/digits"
    )


def _names(folder: Path, patterns: tuple[str, ...]) -> list[str]:
    return [path.relative_to(folder).as_posix() for pattern in patterns for path in sorted(folder.glob(pattern))]


def _chain(folder: Path) -> tuple[Chain, list[str]]:
    """The results with the config that Snakemake left there, if it did and it can be read."""
    path = folder / "config.yaml"
    if not path.exists():
        return Chain(None, folder), []
    try:
        return Chain(check(read(path)), folder), []
    except ValueError as error:  # Error among them
        return Chain(None, folder), [f"{path.name}: cannot be read, so nothing is compared with it ({error})"]


def _number(folder: Path, name: str) -> str:
    """A cell and its score, as far as its file can be read."""
    try:
        made = json.loads((folder / name).read_text(encoding="utf-8"))
        return f"{Path(name).stem} ({made['fid_label']} {made['fid']:.4g})"
    except (OSError, ValueError, KeyError, TypeError):
        return Path(name).stem
