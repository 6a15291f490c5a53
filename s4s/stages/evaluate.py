"""The evaluate stage: scores of a cell under a named protocol, with everything they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4s import metrics, reference
from s4s.cells import Cell, uint8_rule
from s4s.features import Resize
from s4s.metrics import Moments
from s4s.protocol import Protocol, protocol
from s4s.reference import Source, Statistics
from s4s.solver import load_solver
from s4s.stages.bench import Bench
from s4s.stages.files import Config, write_json
from s4s.stages.networks import network
from s4s.stages.provenance import provenance
from s4s.stages.sample import read_facts, read_samples


def protocol_of(config: Config, plan: str = "none") -> Protocol:
    """The protocol of a config, its changes on record; ``plan`` is the model's class plan."""
    score = config["score"]
    changes: dict[str, Any] = {"seed": config["sample"]["seed"], "uint8": uint8_rule(config), "classes": plan}
    if "reference" in score:
        known = protocol(score["protocol"], score.get("data")).reference
        given = dict(score["reference"]) | {"note": known.note if known else ""}
        changes["reference"] = Source(**given | ({"resize": Resize(**given["resize"])} if "resize" in given else {}))
    if "extractor" in score:
        changes |= {"extractor": score["extractor"]["name"], "layer": score["extractor"]["layer"], "weights": None}
    return protocol(score["protocol"], score.get("data"), **changes)


class Scorer:
    """Extractor and reference of a config: the same for all its cells."""

    def __init__(self, bench: Bench, plan: str) -> None:
        self.bench, score = bench, bench.config["score"]
        self.protocol = protocol_of(bench.config, plan)
        self.extract = self.protocol.build(self._weights())
        self.metrics = score["metrics"]
        self.found, self.real = self._reference()

    def _weights(self) -> Path | None:
        if self.protocol.extractor == "digits" and self.bench.trained:
            network(self.bench, "features")  # which checks that it is of this config
            return self.bench.folder.model("features")
        given = self.bench.config["score"].get("extractor", {}).get("weights")
        return None if given is None else Path(given)

    def _reference(self) -> tuple[Statistics, Tensor | None]:
        """Statistics of the reference and, where images are at hand and wanted, their features."""
        source = self.protocol.reference
        assert source is not None  # the config's check saw to it
        if source.kind == "npz" or (self.protocol.weights is not None and self.metrics == ["fid"]):
            return reference.statistics(source, self.extract), None
        content = hashlib.sha256()
        for batch in reference.images(source, self.extract.chunk):
            content.update(json.dumps(list(batch.shape)).encode() + batch.numpy().tobytes())
        real = reference.features(source, self.extract)
        moments = Moments.of(real)
        record = {"kind": source.kind, "where": source.where, "images_sha256": content.hexdigest()}
        return Statistics(moments.mean, moments.covariance, moments.count, record), real

    def features(self, shards: Iterable[Tensor]) -> Tensor:
        """Features [n, d] of samples in shards: the same as of all of them at once."""
        return torch.cat([self.extract(self._pixels(block)) for block in blocks(shards, self.extract.chunk)])

    def _pixels(self, samples: Tensor) -> Tensor:
        if samples.dtype == torch.uint8:
            return self.protocol.resize.batch(samples)
        with torch.no_grad():
            return self.protocol.images(self.bench.model.decode(samples.to(self.bench.device))).cpu()

    def scores(self, features: Tensor) -> dict[str, Any]:
        """What the config asks for, by name."""
        made: dict[str, Any] = {"fid": metrics.frechet(Moments.of(features), self.found)}
        if self.real is not None and "kid" in self.metrics:
            size = min(1000, len(features), len(self.real))
            made |= metrics.kid(features, self.real, size=size) | {"kid_subset_size": size}
        if self.real is not None and "precision-recall" in self.metrics:
            made |= metrics.precision_recall(features, self.real)
        if replicates := self.bench.config["score"]["bootstrap"]:
            made["fid_interval"] = asdict(metrics.bootstrap(features, self.found, replicates))
        return made

    def record(self, facts: Mapping[str, Any], count: int) -> dict[str, Any]:
        """The protocol as it was used; ``facts`` lie beside the samples."""
        name, model, found = self.extract.identity["extractor"], facts["model"], dict(self.found.record)
        images = found.get("images_sha256") or (found.get("made_from") or {}).get("images_sha256")
        return self.protocol.describe(self.extract, self.found, count) | {
            "feature_space": "Inception" if "inception" in name else f"{name}, not Inception",
            "reference_sha256": images or found["sha256"],
            "classes": model.get("classes") or "unconditional",
            "prompts": model.get("prompts"),
            "prompts_repeat": model.get("prompts_repeat"),
            "guidance": model.get("guidance"),
            "sample_seed": self.bench.config["sample"]["seed"],
            "sigma_range": facts["sigma_range"],
        }


def evaluate_cell(bench: Bench, cell: Cell) -> Path:
    """Score a cell's samples and write its metrics with the full protocol."""
    folder, facts = bench.folder, read_facts(bench, cell)
    model = facts[0]["model"]
    scorer = _scorer(bench, (model.get("classes") or {"plan": "none"})["plan"])
    features = scorer.features(read_samples(bench, cell))
    spent = json.loads(folder.fit(cell).read_text()) if cell.learned else {}
    family = load_solver(folder.solver(cell)).provenance.get("family", "")
    order = cell.order or cell.options.get("order")
    head = {"cell": cell.name, "benchmark": bench.config["benchmark"], "method": cell.method, "solver": cell.start,
            "schedule": cell.schedule, "family": family, "order": order, "nfe": cell.nfe,
            "seed": cell.seed, **scorer.scores(features), "fid_label": scorer.protocol.label(len(features)),
            "n_samples": len(features), "val_loss": spent.get("val_loss"), "fit_seconds": spent.get("seconds"),
            "fit_nfe": spent.get("evaluations"), "sample_seconds": sum(f["seconds"] for f in facts)}  # fmt: skip
    if cell.radius is not None:
        head |= {"radius": cell.radius, "relaxed_loss": spent.get("relaxed_loss")}
    record = {"protocol": scorer.record(facts[0], len(features)),
              "provenance": provenance(bench, cell, model, facts[0]["device"])}  # fmt: skip
    write_json(folder.metrics(cell), head | record)
    return folder.metrics(cell)


def blocks(shards: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """All samples, ``size`` at a time whatever the shards; the last piece may have fewer."""
    rest: list[Tensor] = []
    for shard in shards:
        held = torch.cat([*rest, shard])
        whole = len(held) - len(held) % size
        yield from held[:whole].split(size) if whole else []
        rest = [held[whole:]]
    yield from (part for part in rest if len(part))


@lru_cache(maxsize=1)
def _scorer(bench: Bench, plan: str) -> Scorer:
    """One scorer for all cells of a job."""
    return Scorer(bench, plan)
