"""The evaluate stage: scores of a cell, with the protocol they were taken under."""

from __future__ import annotations

import json
from pathlib import Path

from s4s import metrics
from s4s.config import Cell, digest
from s4s.models.digits import digits
from s4s.solver import load_solver
from s4s.stages.files import Config, Folder, write_json
from s4s.stages.networks import network
from s4s.stages.provenance import provenance
from s4s.stages.sample import read_samples


def evaluate_cell(config: Config, results: Path, cell: Cell) -> Path:
    """Score a cell's samples against the digits and write its metrics with the full protocol."""
    folder = Folder(config, results)
    images, seconds = read_samples(config, results, cell)
    extract = metrics.extractor("digits", folder.model("features"))
    network(config, results, "features")
    reference = metrics.to_uint8(digits()[0], config["sample"]["uint8"])
    fid = metrics.frechet(metrics.Moments.of(extract(images)), metrics.Moments.of(extract(reference)))
    spent = json.loads(folder.fit(cell).read_text()) if cell.learned else {}
    family = load_solver(folder.solver(cell)).provenance.get("family", "")
    head = {"cell": cell.name, "benchmark": config["benchmark"], "method": cell.method, "solver": cell.start,
            "schedule": cell.schedule, "family": family, "order": cell.options.get("order"), "nfe": cell.nfe,
            "seed": cell.seed, "fid": fid, "fid_label": metrics.fid_label(len(images)), "n_samples": len(images),
            "val_loss": spent.get("val_loss"), "fit_seconds": spent.get("seconds"),
            "fit_nfe": spent.get("evaluations"), "sample_seconds": seconds}  # fmt: skip
    reference_hash = digest(reference.flatten().tolist())
    protocol = {**extract.identity, "feature_space": "digits classifier, not Inception",
                "uint8": config["sample"]["uint8"], "reference": "all 1,797 digits of scikit-learn",
                "reference_sha256": reference_hash,
                "classes": "unconditional", "guidance": None, "sample_seed": config["sample"]["seed"],
                "sigma_range": [config["process"]["sigma_max"], config["process"]["sigma_min"]]}  # fmt: skip
    write_json(folder.metrics(cell), head | {"protocol": protocol, "provenance": provenance(config, cell)})
    return folder.metrics(cell)
