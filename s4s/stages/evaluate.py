"""The evaluate stage: scores of a cell under a named protocol, with everything they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4s.files import sha256
from s4s.models.digits import digits
from s4s.models.model import classes, facts_of
from s4s.score import metrics, reference
from s4s.score.metrics import Moments
from s4s.score.reference import Statistics
from s4s.solver import Solver
from s4s.stages.bench import Bench
from s4s.stages.cells import OF_SAMPLES, Cell, guided, rows_a_call, teacher_of
from s4s.stages.chain import outside
from s4s.stages.features import Shard, extractor_files, extractor_of, feature_files, protocol_of, read_shard
from s4s.stages.files import write_json
from s4s.stages.own import load_solver_or_sampler
from s4s.stages.provenance import provenance


class Scorer:
    """Extractor and reference of a config: the same for all its cells."""

    def __init__(self, bench: Bench, plan: str) -> None:
        self.bench, score = bench, bench.config["score"]
        self.protocol = protocol_of(bench.config, plan)
        self.extract = extractor_of(bench)
        self.metrics = score["metrics"]
        self.found, self.real = self._reference()

    def _reference(self) -> tuple[Statistics, Tensor | None]:
        """Statistics of the reference and, where images are at hand and wanted, their features."""
        source = self.protocol.reference
        assert source is not None  # the config's check saw to it
        if source.kind == "npz" or (self.protocol.weights is not None and {*self.metrics} <= {*OF_SAMPLES}):
            return reference.statistics(source, self.extract), None
        content = hashlib.sha256()
        for batch in reference.images(source, self.extract.chunk):
            content.update(json.dumps(list(batch.shape)).encode() + batch.numpy().tobytes())
        real = reference.features(source, self.extract)
        moments = Moments.of(real)
        record = {"kind": source.kind, "where": source.where, "images_sha256": content.hexdigest()}
        return Statistics(moments.mean, moments.covariance, moments.count, record), real

    @property
    def files(self) -> dict[str, str]:
        """Hashes of what it scores with, where that is no result."""
        computed = self.found.record.get("file") if self.protocol.reference.kind != "npz" else None  # type: ignore[union-attr]
        return scoring_files(self.bench) | (outside(reference.store() / computed) if computed else {})

    def _classes(self, features: Tensor, facts: Mapping[str, Any]) -> dict[str, float]:
        """FID within classes and accuracy of the samples, whose features are in the order of their indices."""
        plan, indices = facts["model"]["classes"], range(len(features))
        asked = classes(plan["plan"], range(plan["count"]), plan["seed"])(indices)
        assert self.real is not None and asked is not None  # the config's check saw to it
        with torch.no_grad():
            told = self.extract.network.classifier.head(features.float()).argmax(1)  # type: ignore[operator,union-attr]
        return metrics.within_classes(features, asked, self.real, digits()[1], told)

    def scores(self, shards: Sequence[Shard], teacher: Sequence[Shard] = ()) -> dict[str, Any]:
        """What the config asks for, by name; only a FID can do without the features.

        Args:
            teacher: the teacher's samples of the same noises, where they are to be compared with.
        """
        moments = Moments.merge(shard.moments for shard in shards)
        made: dict[str, Any] = {"fid": metrics.frechet(moments, self.found)}
        made["fid_std"] = metrics.sampling_std(moments, self.found)
        if any(shard.features is None for shard in shards):
            return made
        features = _features(shards)
        if self.real is not None and "kid" in self.metrics:
            size = min(1000, len(features), len(self.real))
            made |= metrics.kid(features, self.real, size=size) | {"kid_subset_size": size}
        if self.real is not None and "precision-recall" in self.metrics:
            made |= metrics.precision_recall(features, self.real)
        if teacher:
            made |= metrics.to_teacher(features, _features(teacher))
        if "classes" in self.metrics:
            made |= self._classes(features, shards[0].facts)
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


def _features(shards: Sequence[Shard]) -> Tensor:
    """[n, d] of all shards, which have some where a metric needs them."""
    return torch.cat([shard.features for shard in shards if shard.features is not None])


def evaluate_cell(bench: Bench, cell: Cell) -> Path:
    """Score a cell's samples and write its metrics with the full protocol."""
    folder, files = bench.folder, feature_files(bench, cell)
    beside = [folder.fit(cell)] * cell.learned + [folder.scoring] * folder.scoring.exists()
    target = [] if cell.method == "teacher" else target_files(bench, cell.nfe)
    reads = bench.chain.read(*files, *target, folder.solver(cell), *beside)
    shards, teacher = ([read_shard(path) for path in paths] for paths in (files, target))
    facts = [shard.facts for shard in shards]
    count = sum(shard.moments.count for shard in shards)
    model = facts_of(facts[0]["model"], count)
    trained, plan = bench.chain.read(*extractor_files(bench)[0]), (model.get("classes") or {"plan": "none"})["plan"]
    scorer = _scorer(bench, plan, frozenset((scoring_files(bench) | trained).items()))
    spent = json.loads(folder.fit(cell).read_text()) if cell.learned else {}
    solver = load_solver_or_sampler(folder.solver(cell))
    family = solver.provenance.get("family", "") if isinstance(solver, Solver) else ""
    order = cell.order or cell.options.get("order")
    head = {"cell": cell.name, "benchmark": bench.config["benchmark"], "method": cell.method, "solver": cell.start,
            "schedule": cell.schedule, "family": family, "order": order, "nfe": cell.nfe,
            "seed": cell.seed, **scorer.scores(shards, teacher), "fid_label": scorer.protocol.label(count),
            "n_samples": count, "val_loss": spent.get("val_loss"), "fit_seconds": spent.get("seconds"),
            "fit_nfe": spent.get("evaluations"), "sample_seconds": sum(f["seconds"] for f in facts)}  # fmt: skip
    if guided(bench.config):
        own = solver.calls if isinstance(solver, Solver) and solver.null is not None else None
        head |= {"calls": own or cell.nfe * rows_a_call(bench.config)}
    if cell.unseen:
        head |= {"unseen": 1}
    if spent.get("peak_bytes"):
        head["fit_peak_bytes"] = spent["peak_bytes"]
    if cell.settings:
        head["settings"] = dict(cell.settings)
    if cell.radius is not None:
        head |= {"radius": cell.radius, "relaxed_loss": spent.get("relaxed_loss")}
    if cell.file is not None:
        head["method_file"] = {"file": str(cell.file), "sha256": sha256(cell.file)}
    record = {"protocol": scorer.record(facts[0] | {"model": model}, count),
              "provenance": provenance(bench, cell, model, facts[0]["device"])}  # fmt: skip
    write_json(folder.metrics(cell), head | record)
    bench.chain.note(folder.metrics(cell), "score", reads | trained, scorer.files)
    return folder.metrics(cell)


def target_files(bench: Bench, nfe: int) -> list[Path]:
    """Features of the config's teacher, where a metric compares with them: the same for every row of an NFE."""
    wanted = "teacher" in bench.config["score"]["metrics"]
    return feature_files(bench, teacher_of(bench.config, nfe)) if wanted else []


def scoring_files(bench: Bench) -> dict[str, str]:
    """Hashes of the reference and of the extractor, where they are files that are no results."""
    source = protocol_of(bench.config).reference
    assert source is not None  # the config's check saw to it
    given: list[Path | str] = [*extractor_files(bench)[1]]
    if source.kind != "dataset":
        given.append(source.where if source.kind == "folder" else reference.fetch(source))
    return outside(*given)


@lru_cache(maxsize=1)
def _scorer(bench: Bench, plan: str, files: frozenset[tuple[str, str]]) -> Scorer:
    """One scorer for all cells of a job; another when the ``files`` it scores with are others."""
    return Scorer(bench, plan)
