"""The features stage: of a shard of samples the sums that a FID needs and, for other metrics, the features themselves.

Sums are float64 and merge exactly: shards may be made in any order and on any machine, and no image needs to be kept.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s4s.errors import Error
from s4s.files import at_home, replacing
from s4s.records import OF_CONFIG
from s4s.score.features import Extractor, inception_weights
from s4s.score.metrics import Moments
from s4s.score.protocol import Protocol, protocol
from s4s.stages.bench import Bench
from s4s.stages.cells import Cell, needs_features, shards, uint8_rule
from s4s.stages.chain import outside
from s4s.stages.files import Config
from s4s.stages.fit import solver_of
from s4s.stages.sample import SHOWN, Samples, make_samples, read_samples, sample_cells


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


def extractor_of(bench: Bench) -> Extractor:
    """The feature extractor of a config: one for all cells of a job."""
    trained, elsewhere = extractor_files(bench)
    hashes = bench.chain.read(*trained) | outside(*elsewhere)
    return _extractor(bench, next(iter([*trained, *elsewhere]), None), *hashes.values())


@lru_cache(maxsize=1)
def _extractor(bench: Bench, weights: Path | None, *hashes: str) -> Extractor:
    return protocol_of(bench.config).build(weights)


def extractor_files(bench: Bench) -> tuple[list[Path], list[Path]]:
    """The extractor's weights: trained by the pipeline, or a file that is no result."""
    chosen, own = protocol_of(bench.config), bench.config["score"].get("extractor", {}).get("weights")
    if chosen.extractor == "digits" and bench.trained:
        return [bench.folder.model("features")], []
    if own is not None:
        return [], [at_home(own)]
    return [], [inception_weights(weights=chosen.weights)] if chosen.weights else []


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
    return features_of_cells(bench, [cell], first, last)[0]


def features_of_cells(bench: Bench, cells: Sequence[Cell], first: int, last: int) -> list[Path]:
    """``make_features`` of several cells, whose samples are made together."""
    (trained, elsewhere), kept = extractor_files(bench), _kept(bench, cells, first, last)
    reads = [bench.reads(*trained, path or bench.folder.solver(cell)) for cell, path in zip(cells, kept, strict=True)]
    anew = [cell for cell, path in zip(cells, kept, strict=True) if path is None]
    made, paths = iter(make_samples(bench, anew, first, last) if anew else ()), []
    for cell, from_file, read in zip(cells, kept, reads, strict=True):
        samples = read_samples(bench, cell, first, last) if from_file else next(made)
        path = bench.folder.features(cell, first, last)
        _write(path, shard_of(bench, samples, first), samples, extractor_of(bench))
        bench.chain.note(path, "features", read, outside(*elsewhere))
        _tidy(bench, cell, path.parent)
        paths.append(path)
    return paths


def _write(path: Path, shard: Shard, samples: Samples, extractor: Extractor) -> None:
    """What ``read_shard`` reads."""
    arrays: dict[str, Any] = {
        "count": np.int64(shard.moments.count),
        "total": shard.moments.total.numpy(),
        "shift": shard.moments.shift.numpy(),
        "outer": shard.moments.outer.numpy()[np.triu_indices(len(shard.moments.total))],  # symmetric: half is enough
        "images": samples.images[:SHOWN].numpy(),
    }
    if shard.features is not None:
        arrays["features"] = _smallest(shard.features).numpy()
    facts = samples.facts | {"extractor": extractor.identity}
    with replacing(path) as temporary:
        np.savez(temporary, **arrays, record=json.dumps(facts))


def _kept(bench: Bench, cells: Sequence[Cell], first: int, last: int) -> list[Path | None]:
    """The files of the samples that are to be kept, or happen to be there as they would be made; None for others."""
    keep, paths = bench.config["sample"]["keep_images"], [bench.folder.samples(cell, first, last) for cell in cells]
    missing = [cell for cell, path in zip(cells, paths, strict=True) if keep and not path.exists()]
    if missing:
        sample_cells(bench, missing, first, last)
    return [path if keep or bench.chain.follows(path) else None for path in paths]


def _tidy(bench: Bench, cell: Cell, folder: Path) -> None:
    """Remove what an older config, network or solver left: nobody can use it, and a picture must not show it.

    Files that this config asks for stay, and those whose record is not theirs: another job may be writing them.
    """
    asked = {bench.folder.features(cell, first, last) for first, last in shards(bench.config)}
    for path in {*folder.glob("[!.]*.npz")} - asked:
        name = bench.chain.name(path)
        if (faults := bench.chain.walk().faults(name)) and name not in faults:
            path.unlink(missing_ok=True)


def _smallest(features: Tensor) -> Tensor:
    """In float32 if that loses nothing, as for every extractor of torch-fidelity."""
    small = features.float()
    return small if torch.equal(small.double(), features) else features


def feature_files(bench: Bench, cell: Cell) -> list[Path]:
    """Features of all samples of a cell, in order; shards that are missing, or do not follow, are made anew.

    Raises:
        Error: the samples or the solver are missing, or of another config; as are the shards that are there.
    """
    solver_of(bench, cell)
    return [_present(bench, cell, first, last) for first, last in shards(bench.config)]


def _present(bench: Bench, cell: Cell, first: int, last: int) -> Path:
    """A shard as it was made before, or anew; never one of another config in this one's place."""
    path = bench.folder.features(cell, first, last)
    faults = bench.chain.walk().faults(bench.chain.name(path))
    if path.exists():
        for asked in (fault for name, fault in faults.items() if name.startswith(OF_CONFIG)):
            raise Error(asked)
        if not faults and read_shard(path).moments.count == last - first:
            return path
    return make_features(bench, cell, first, last)


def read_shard(path: Path) -> Shard:
    """A shard that ``make_features`` wrote."""
    with np.load(path) as file:
        total, upper = torch.from_numpy(file["total"]), file["outer"]
        outer = np.zeros((len(total), len(total)))
        outer[np.triu_indices(len(total))] = upper
        outer += np.triu(outer, 1).T
        shift = torch.from_numpy(file["shift"]) if "shift" in file else torch.zeros_like(total)  # an old file
        moments = Moments(int(file["count"]), total, torch.from_numpy(outer), shift)
        features = torch.from_numpy(file["features"]).double() if "features" in file else None
        return Shard(moments, features, json.loads(str(file["record"])))
