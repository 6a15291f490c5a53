"""The embedded benchmarks' networks as ``Model``: trained by ``s4s train`` for one process, in pixels or latents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4s.discrete import VPDiscrete
from s4s.errors import Error, choose
from s4s.files import sha256
from s4s.models import weights as files
from s4s.models.digits import DigitsUNet
from s4s.models.model import (
    Guidance,
    Model,
    classes,
    freeze,
    identity,
    make_denoiser,
    require_classes,
    settings,
    unconditional,
)
from s4s.models.scheduler import betas
from s4s.process import EDM, Flow, Process

TRAINING = frozenset({
    "seed", "steps", "batch", "channels", "classifier_steps", "label_dropout", "latents", "autoencoder_steps",
})  # fmt: skip
PREDICTION = {"edm": "x0", "vp": "eps", "flow": "flow"}
STEPS = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 1000}  # Ho et al. 2020
ENDS: dict[str, dict[str, float]] = {
    "edm": {"sigma_min": 0.002, "sigma_max": 80.0},
    "vp": {"t_min": 0.0, "t_max": 1.0},
    "flow": {"t_min": 1e-3, "t_max": 0.999},
}
"""The ends of every process that a network of the digits can be trained for, by default."""


def process(kind: str = "edm", **ends: float) -> Process:
    """The noise process of a kind: ``edm``, ``vp`` (1000 steps, betas linear from 1e-4 to 0.02) or ``flow``."""
    if kind not in ENDS:
        raise choose("process", kind, ENDS)
    chosen = settings({"type": f"digits {kind}", **ends}, ENDS[kind])
    if kind == "vp":
        return VPDiscrete(alphas_cumprod(), **chosen)
    return EDM(**chosen) if kind == "edm" else Flow(**chosen)


def alphas_cumprod() -> Tensor:
    """[1000] of the digits' variance preserving process."""
    return (1 - betas(STEPS)).cumprod(0)


def load(spec: Mapping[str, Any], weights: Path | None, *, device: str = "cpu", offline: bool = False) -> Model:
    """The network that ``s4s train`` wrote; settings of its training are allowed and have no effect."""
    if weights is None:
        raise Error("a digits model needs its weights: run `s4s train` first")
    net = freeze(files.load(Path(weights), DigitsUNet), device)
    labelled = {"guidance": None, "classes": "uniform", "class_seed": 0}
    given = {key: value for key, value in spec.items() if key not in TRAINING}
    chosen = settings(given, ENDS[net.process] | labelled)
    require_classes(spec, net.classes)
    noise = process(net.process, **{key: chosen[key] for key in ENDS[net.process]})
    guidance = None if chosen["guidance"] is None else Guidance(chosen["guidance"], torch.tensor([net.classes]))

    def network(x: Tensor, model_time: Tensor, labels: Tensor | None) -> Tensor:
        out: Tensor = net(x, model_time, labels)
        return out

    plan = {"plan": chosen["classes"], "seed": chosen["class_seed"], "count": net.classes, "null": net.classes}
    facts = {"type": "digits", "weights_sha256": sha256(Path(weights)), "dtype": "float32",
             "guidance": chosen["guidance"], "classes": plan if net.classes else None}  # fmt: skip
    return Model(
        noise,
        net.shape,
        make_denoiser(noise, network, PREDICTION[net.process], conditional=bool(net.classes), guidance=guidance),
        identity if net.autoencoder is None else net.autoencoder.decode,
        classes(chosen["classes"], range(net.classes), chosen["class_seed"]) if net.classes else unconditional,
        facts,
    )
