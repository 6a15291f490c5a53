"""The embedded benchmark's denoiser as ``Model``: trained by ``s4s train``, unconditional, in pixels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from s4s.errors import Error
from s4s.files import sha256
from s4s.models import weights as files
from s4s.models.digits import SHAPE, DigitsUNet
from s4s.models.model import Model, freeze, identity, make_denoiser, settings, unconditional
from s4s.process import EDM

DEFAULTS = {"sigma_min": 0.002, "sigma_max": 80.0}
TRAINING = frozenset({"seed", "steps", "batch", "channels", "classifier_steps"})


def load(spec: Mapping[str, Any], weights: Path | None, *, device: str = "cpu", offline: bool = False) -> Model:
    """The network that ``s4s train`` wrote; settings of its training are allowed and have no effect."""
    chosen = settings({key: value for key, value in spec.items() if key not in TRAINING}, DEFAULTS)
    if weights is None:
        raise Error("a digits model needs its weights: run `s4s train` first")
    net = freeze(files.load(Path(weights), DigitsUNet), device)
    process = EDM(chosen["sigma_min"], chosen["sigma_max"])

    def network(x: Tensor, sigma: Tensor, _: Tensor | None) -> Tensor:
        out: Tensor = net(x, sigma)
        return out

    facts = {"type": "digits", "weights_sha256": sha256(Path(weights)), "dtype": "float32", "guidance": None,
             "classes": None}  # fmt: skip
    return Model(process, SHAPE, make_denoiser(process, network, "x0"), identity, unconditional, facts)
