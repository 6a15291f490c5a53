"""What the numbers mean: how they were scored, and what produced them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from s4s.report.data import Record


def flatten(record: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested JSON as ``{"versions.torch": "2.13"}``; lists and other values as short text."""
    flat: dict[str, str] = {}
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value if isinstance(value, str) else json.dumps(value)
    return flat


def shared(records: Sequence[Record], part: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Split ``protocol`` or ``provenance`` into what all cells share and the values of what differs."""
    flats = [flatten(record[part]) for record in records]
    keys = dict.fromkeys(key for flat in flats for key in flat)
    values = {key: list(dict.fromkeys(flat.get(key, "not recorded") for flat in flats)) for key in keys}
    same = {key: found[0] for key, found in values.items() if len(found) == 1}
    return same, {key: found for key, found in values.items() if len(found) > 1}


def feature_space(records: Sequence[Record]) -> str:
    """Which features the FID is measured in, and what it may be compared with."""
    names = extractors(records)
    if not names:
        return (
            "The metrics files do not say which features the FID is measured in; compare these numbers with each other."
        )
    if all("inception" in name.lower() for name in names):
        return f"Inception features ({', '.join(names)})."
    return f"Own feature space ({', '.join(names)}); not comparable to Inception FID."


def extractors(records: Sequence[Record]) -> list[str]:
    """Names of the feature extractors in the protocols."""
    found = []
    for record in records:
        for key, value in flatten(record["protocol"]).items():
            if key.rsplit(".", 1)[-1] in ("extractor", "feature_extractor", "features"):
                found.append(value)
    return list(dict.fromkeys(found))


def protocol_name(records: Sequence[Record]) -> str:
    """The name of the protocol, or the several names when cells differ."""
    return " and ".join(dict.fromkeys(str(record["protocol"].get("protocol", "")) for record in records))


def fid_name(records: Sequence[Record]) -> str:
    """``FID@5000``, or the several labels when cells differ."""
    return " and ".join(dict.fromkeys(record["fid_label"] for record in records))


def protocol_note(records: Sequence[Record]) -> str:
    """One sentence or two under every table: metric, number of samples, feature space."""
    counts = sorted({record["n_samples"] for record in records})
    samples = " or ".join(f"{count:,}" for count in counts)
    return f"{fid_name(records)} on {samples} samples a cell, lower is better. {feature_space(records)}"


def warnings(records: Sequence[Record]) -> list[str]:
    """What a reader must know before comparing the cells: mixed protocols, commits, or uncommitted code."""
    found = []
    counts = {record["n_samples"] for record in records}
    if len(counts) > 1:
        found.append(f"Cells were scored on different numbers of samples: {', '.join(map(str, sorted(counts)))}.")
    for key in shared(records, "protocol")[1]:
        if key.rsplit(".", 1)[-1] not in ("n_samples", "samples", "seconds", "wall_seconds", "wall_time"):
            found.append(f"Cells were scored under different protocols: '{key}' differs.")
    networks = {json.dumps(network(record), sort_keys=True) for record in records}
    if len(networks) > 1:
        found.append(f"Cells were sampled from {len(networks)} different networks.")
    commits = {record["provenance"].get("git_commit") for record in records}
    if len(commits) > 1:
        found.append(f"Cells come from {len(commits)} different commits.")
    if any(record["provenance"].get("git_dirty") for record in records):
        found.append("Some cells were made by code with uncommitted changes.")
    return found


def network(record: Record) -> Any:
    """Hashes of the weights a cell was sampled from."""
    model = record["provenance"].get("model") or {}
    return model.get("files_sha256") or model.get("weights_sha256")
