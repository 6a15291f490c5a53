"""The pixel-space models of EDM as ``Model``: CIFAR-10, FFHQ, AFHQv2, or any file written by ``s4s import edm``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from s4s.errors import Error
from s4s.models.edm import load_edm
from s4s.models.model import (
    DTYPES,
    RUN,
    Model,
    classes,
    identity,
    make_denoiser,
    require_classes,
    running,
    settings,
    unconditional,
)
from s4s.process import EDM

DEFAULTS = {
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    **RUN,
    "classes": "uniform",
    "class_seed": 0,
}


def load(spec: Mapping[str, Any], weights: Path | None, *, device: str = "cpu", offline: bool = False) -> Model:
    """A network imported by ``s4s import edm``; class-conditional ones follow the class plan."""
    chosen = settings(spec, DEFAULTS)
    if weights is None:
        raise Error("an edm model needs its imported weights: run `s4s import edm` on the published file first")
    net = load_edm(weights, device=device, dtype=DTYPES[chosen["dtype"]], channels_last=chosen["channels_last"])
    count = net.config.label_dim
    require_classes(spec, count)
    record = json.loads(Path(weights).with_suffix(".json").read_text(encoding="utf-8"))
    facts = {key: chosen[key] for key in RUN} | {
        "type": "edm",
        "weights_sha256": record["weights"]["sha256"],
        "source": record["source"],
        "ema": "the file's 'ema' entry",
        "guidance": None,
        "classes": {"plan": chosen["classes"], "seed": chosen["class_seed"], "count": count} if count else None,
    }
    process = EDM(chosen["sigma_min"], chosen["sigma_max"])

    def network(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        out: Tensor = net(x, sigma, labels)
        return out

    return Model(
        process,
        (net.config.channels, net.config.resolution, net.config.resolution),
        make_denoiser(process, running(network, chosen), "x0", conditional=bool(count)),
        identity,
        classes(chosen["classes"], range(count), chosen["class_seed"]) if count else unconditional,
        facts,
    )
