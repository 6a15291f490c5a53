"""The features stage: of a shard of samples the sums that a FID needs and, for other metrics, the features themselves.

Sums are float64 and merge exactly: shards may be made in any order and on any machine, and no image needs to be kept.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s4s.errors import Error
from s4s.files import replacing, sha256
from s4s.score.features import Extractor
from s4s.score.metrics import Moments
from s4s.score.protocol import Protocol, protocol
from s4s.stages.bench import Bench
from s4s.stages.cells import Cell, made_from, needs_features, shards, uint8_rule
from s4s.stages.files import Config, expect
from s4s.stages.fit import solver_of
from s4s.stages.networks import network
from s4s.stages.sample import SHOWN, UNREADABLE, Samples, make_samples, read_samples, sample_cell


@dataclass(frozen=True)
class Shard:
    """Features of a shard of samples.

    Args:
        moments: their sums.
        features: [n, d] float64; None where no metric needs more than the sums.
        facts: what lies beside the samples, and the extractor.
    """

    moments: Moments
    features: Tensor | None
    facts: dict[str, Any]


def protocol_of(config: Config, plan: str = "none") -> Protocol:
    """The protocol of a config, its changes on record; ``plan`` is the model's class plan."""
    score = config["score"]
    changes: dict[str, Any] = {"seed": config["sample"]["seed"], "uint8": uint8_rule(config), "classes": plan}
    if "reference" in score:
        known = protocol(score["protocol"], score.get("data")).reference
        changes["reference"] = dict(score["reference"]) | {"note": known.note if known else ""}
    if "extractor" in score:
        changes |= {"extractor": score["extractor"]["name"], "layer": score["extractor"]["layer"], "weights": None}
    return protocol(score["protocol"], score.get("data"), **changes)


@lru_cache(maxsize=1)
def extractor_of(bench: Bench) -> Extractor:
    """The feature extractor of a config: one for all cells of a job."""
    chosen, weights = protocol_of(bench.config), bench.config["score"].get("extractor", {}).get("weights")
    if chosen.extractor == "digits" and bench.trained:
        network(bench, "features")  # which checks that it is of this config
        weights = bench.folder.model("features")
    return chosen.build(None if weights is None else Path(weights))


def extract(bench: Bench, samples: Tensor, first: int) -> Tensor:
    """Features [n, d] float64 of 8-bit images or last states [n, ...], the first of them number ``first``.

    A sample keeps its row in the extractor's calls however the samples are cut into shards: blanks stand in for those
    before it. So its features have the same bits.
    """
    extractor = extractor_of(bench)
    missing = first % extractor.chunk
    rows = torch.cat([samples.new_zeros(missing, *samples.shape[1:]), samples]) if missing else samples
    return torch.cat([extractor(_pixels(bench, part)) for part in rows.split(extractor.chunk)])[missing:]


def shard_of(bench: Bench, samples: Samples, first: int) -> Shard:
    """Features of a shard of samples, the first of them number ``first``."""
    features = extract(bench, samples.scored, first)
    return Shard(Moments.of(features), features if needs_features(bench.config) else None, samples.facts)


def _pixels(bench: Bench, samples: Tensor) -> Tensor:
    chosen = protocol_of(bench.config)
    if samples.dtype == torch.uint8:
        return chosen.resize.batch(samples)
    with torch.no_grad():
        return chosen.images(bench.model.decode(samples.to(bench.device))).cpu()


def make_features(bench: Bench, cell: Cell, first: int, last: int) -> Path:
    """Features of samples ``first`` to ``last - 1`` of a cell: of the kept ones, or of samples made for them alone."""
    samples = _samples(bench, cell, first, last)
    shard = shard_of(bench, samples, first)
    arrays: dict[str, Any] = {
        "count": np.int64(shard.moments.count),
        "total": shard.moments.total.numpy(),
        "shift": shard.moments.shift.numpy(),
        "outer": shard.moments.outer.numpy()[np.triu_indices(len(shard.moments.total))],  # symmetric: half is enough
        "images": samples.images[:SHOWN].numpy(),
    }
    if shard.features is not None:
        arrays["features"] = _smallest(shard.features).numpy()
    facts = samples.facts | {
        "made_from": made_from(bench.config, "features"),
        "extractor": extractor_of(bench).identity,
    }
    with replacing(path := bench.folder.features(cell, first, last)) as temporary:
        np.savez(temporary, **arrays, record=json.dumps(facts))
    return path


def _samples(bench: Bench, cell: Cell, first: int, last: int) -> Samples:
    """From the disk if they are to be there, or happen to be; else made in memory."""
    if bench.config["sample"]["keep_images"]:
        if not bench.folder.samples(cell, first, last).exists():
            sample_cell(bench, cell, first, last)
        return read_samples(bench, cell, first, last)
    with suppress(Error):
        return read_samples(bench, cell, first, last)
    return make_samples(bench, cell, first, last)


def _smallest(features: Tensor) -> Tensor:
    """In float32 if that loses nothing, as for every extractor of torch-fidelity."""
    small = features.float()
    return small if torch.equal(small.double(), features) else features


def cell_features(bench: Bench, cell: Cell) -> list[Shard]:
    """Features of all samples of a cell, in order; shards that are missing, damaged or old are made anew.

    Raises:
        Error: the samples or the solver are missing, or of another config; shards are of different networks.
    """
    found: list[Shard] = []
    for first, last in shards(bench.config):
        shard = _present(bench, cell, first, last)
        if shard is None:
            shard = _read(make_features(bench, cell, first, last))
        if found and shard.facts["model"] != found[0].facts["model"]:
            path = bench.folder.features(cell, first, last)
            raise Error(f"{path}: these features are of another network than the first; run `s4s features` again")
        found.append(shard)
    return found


def _present(bench: Bench, cell: Cell, first: int, last: int) -> Shard | None:
    """A shard as it was made before; None if there is none that can be used."""
    path = bench.folder.features(cell, first, last)
    solver_of(bench, cell)
    if not path.exists():
        return None
    try:
        shard = _read(path)
    except UNREADABLE:
        return None
    facts = shard.facts
    expect(path, facts["made_from"], made_from(bench.config, "features"))
    same = facts["solver_sha256"] == sha256(bench.folder.solver(cell))
    whole = shard.moments.count == last - first and facts["extractor"] == extractor_of(bench).identity
    return shard if same and whole else None


def _read(path: Path) -> Shard:
    with np.load(path) as file:
        total, upper = torch.from_numpy(file["total"]), file["outer"]
        outer = np.zeros((len(total), len(total)))
        outer[np.triu_indices(len(total))] = upper
        outer += np.triu(outer, 1).T
        shift = torch.from_numpy(file["shift"]) if "shift" in file else torch.zeros_like(total)  # an old file
        moments = Moments(int(file["count"]), total, torch.from_numpy(outer), shift)
        features = torch.from_numpy(file["features"]).double() if "features" in file else None
        return Shard(moments, features, json.loads(str(file["record"])))
