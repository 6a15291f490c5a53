"""Where a number comes from: its command, commit, seeds and counts, and the chain of hashes behind it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s4s import records as chain
from s4s.errors import Error
from s4s.report.data import FIT, Record
from s4s.report.labels import method_label, start_label
from s4s.report.protocol import flatten

COMMANDS = chain.COMMANDS | {"config": "run"}


@dataclass(frozen=True)
class Link:
    """A file that a number was made from: its name, the command that made it, its SHA-256."""

    name: str
    command: str
    sha256: str


@dataclass(frozen=True)
class Origin:
    """All that a page says of one cell.

    Args:
        cell: its name, which is also that of its anchor.
        title: method, start, NFE and seed in words.
        facts: what a reader asks first, with its answer.
        links: the chain of hashes, from the score to the network.
        siblings: cells of the same row and NFE with other fit seeds.
        record: protocol and provenance as they were recorded, as JSON.
    """

    cell: str
    title: str
    facts: tuple[tuple[str, str], ...]
    links: tuple[Link, ...]
    siblings: tuple[str, ...]
    record: str


def origin(record: Record, records: Sequence[Record]) -> Origin:
    """Of one cell of a run."""
    alike = [r["cell"] for r in records if all(r.get(key) == record.get(key) for key in FIT)]
    start = start_label(record["solver"], record["schedule"])
    words = [method_label(record["method"]), start, f"{record['nfe']} NFE"]
    words += [f"seed {record['seed']}"] if record["seed"] is not None else []
    whole = {key: record[key] for key in ("protocol", "provenance")}
    return Origin(
        record["cell"],
        ", ".join(word for word in words if word),
        tuple(_facts(record, {r["cell"] for r in records})),
        tuple(links(record["path"].parent.parent, f"metrics/{record['cell']}.json")),
        tuple(cell for cell in alike if cell != record["cell"]),
        json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=False),
    )


def links(root: Path, name: str) -> list[Link]:
    """The chain of a result, as it was recorded when each part was made; files read twice stand once."""
    found: dict[str, Link] = {}
    _walk(root, name, found)
    return list(found.values())


def _walk(root: Path, name: str, found: dict[str, Link]) -> None:
    try:
        made = chain.read(root, name)
    except Error:
        made = None
    if made is None or name in found:
        return
    found[name] = Link(name, f"s4s {COMMANDS.get(made.stage, made.stage)}", made.sha256)
    for other in made.reads:
        _walk(root, other, found)
    for other, digest in made.outside.items():
        found.setdefault(other, Link(other, "not made here", digest))


def _facts(record: Record, cells: set[str]) -> list[tuple[str, str]]:
    provenance, protocol = record["provenance"], record["protocol"]
    flat, spread = flatten(protocol), record.get("fid_std")
    score = f"{record['fid']:.4f}" + (f" ± {spread:.4f} over other noises" if spread else "")
    found = [(record["fid_label"], score), ("Command", _command(record, cells)),
             ("Commit", _commit(provenance)), ("Seeds", _pairs(provenance.get("seeds"))),
             ("Samples", f"{record['n_samples']:,}"), ("Extractor", _named(flat, "extractor", "weights_sha256")),
             ("Reference", _reference(flat)), ("Network", _network(provenance)),
             ("Config", _short(provenance.get("config_sha256"))), ("Device", _device(provenance)),
             ("Versions", _pairs(provenance.get("versions"))),
             ("Method's file", _pairs(record.get("method_file")))]  # fmt: skip
    if record["seed"] is not None:
        found.append(("Fit", _fit(record)))
    return [(key, str(value)) for key, value in found if value]


def _command(record: Record, cells: set[str]) -> str:
    """The command for this cell; the one that was typed may have named more."""
    words = str(record["provenance"].get("command") or "").split()
    own = [word for word in words if word == record["cell"] or word not in cells]
    others = len(words) - len(own)
    return " ".join(own) + (f" (typed with {others} other cells)" if others else "")


def _commit(provenance: dict[str, Any]) -> str:
    commit = provenance.get("git_commit")
    return f"{commit}{', with uncommitted changes' * bool(provenance.get('git_dirty'))}" if commit else ""


def _fit(record: Record) -> str:
    said = {"validation loss": record["val_loss"], "evaluations": record["fit_nfe"], "seconds": record["fit_seconds"]}
    found = [f"{key} {value:,.5g}" for key, value in said.items() if value is not None]
    return ", ".join([*found, *([f"memory {peak / 1e6:,.0f} MB"] if (peak := record.get("fit_peak_bytes")) else [])])


def _named(flat: dict[str, str], key: str, digest: str) -> str:
    """What ends in ``key``, with what ends in ``digest``."""
    name = next((value for each, value in flat.items() if each.split(".")[-1] == key), "")
    found = next((value for each, value in flat.items() if each.split(".")[-1] == digest), "")
    layer = next((value for each, value in flat.items() if each.split(".")[-1] == "layer"), "")
    return ", ".join(part for part in (name, layer and f"layer {layer}", _short(found)) if part)


def _reference(flat: dict[str, str]) -> str:
    said = next((flat[key] for key in ("reference.where", "reference.set", "reference.kind") if key in flat), "")
    digest = flat.get("reference_sha256") or flat.get("reference.sha256")
    return ", ".join(part for part in (said, _short(digest)) if part)


def _network(provenance: dict[str, Any]) -> str:
    model = provenance.get("model") or {}
    files = model.get("files_sha256") or {}
    digest = model.get("weights_sha256") or next(iter(files.values()), "")
    return ", ".join(part for part in (str(model.get("type", "")), _short(digest)) if part)


def _device(provenance: dict[str, Any]) -> str:
    return ", ".join(str(provenance[key]) for key in ("device", "dtype") if provenance.get(key))


def _pairs(values: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in (values or {}).items() if value is not None)


def _short(digest: Any) -> str:
    return f"SHA-256 {str(digest)[:16]}…" if digest and digest != "null" else ""
