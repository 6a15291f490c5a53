"""The embedded benchmarks' networks as ``Model``: trained by ``s4s train`` for one process, in pixels or latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4s.discrete import VPDiscrete
from s4s.errors import Error, require_choice
from s4s.files import sha256
from s4s.guidance import guided
from s4s.models import weights as files
from s4s.models.digits import DigitsUNet
from s4s.models.model import (
    Condition,
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
from s4s.noise import philox
from s4s.process import EDM, Flow, Process
from s4s.solver import Denoise

TRAINING = frozenset({
    "seed", "steps", "batch", "channels", "classifier_steps", "label_dropout", "latents", "autoencoder_steps",
})  # fmt: skip
PREDICTION = {"edm": "x0", "vp": "eps", "flow": "flow"}
SCALE_DRAW = 0x7363616C  # keeps the draw of a scale apart from others of the same (seed, index)
STEPS = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 1000}  # Ho et al. 2020
ENDS: dict[str, dict[str, float]] = {
    "edm": {"sigma_min": 0.002, "sigma_max": 80.0},
    "vp": {"t_min": 0.0, "t_max": 1.0},
    "flow": {"t_min": 1e-3, "t_max": 0.999},
}
"""The ends of every process that a network of the digits can be trained for, by default."""


def process(kind: str = "edm", **ends: float) -> Process:
    """The noise process of a kind: ``edm``, ``vp`` (1000 steps, betas linear from 1e-4 to 0.02) or ``flow``."""
    require_choice("process", kind, ENDS)
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
    ranged = isinstance(chosen["guidance"], list)
    plain = chosen["guidance"] is None or ranged
    guidance = None if plain else Guidance(chosen["guidance"], torch.tensor([net.classes]))

    def network(x: Tensor, model_time: Tensor, labels: Tensor | None) -> Tensor:
        out: Tensor = net(x, model_time, labels)
        return out

    plan = {"plan": chosen["classes"], "seed": chosen["class_seed"], "count": net.classes, "null": net.classes}
    facts = {"type": "digits", "weights_sha256": sha256(Path(weights)), "dtype": "float32",
             "guidance": chosen["guidance"], "classes": plan if net.classes else None}  # fmt: skip
    denoiser = make_denoiser(noise, network, PREDICTION[net.process], conditional=bool(net.classes), guidance=guidance)
    condition = classes(chosen["classes"], range(net.classes), chosen["class_seed"]) if net.classes else unconditional
    if ranged:
        condition = _with_scales(condition, chosen["guidance"], chosen["class_seed"])
        denoiser = _at_own_scales(denoiser, net.classes)
    decode = identity if net.autoencoder is None else net.autoencoder.decode
    return Model(noise, net.shape, denoiser, decode, condition, facts)


def _with_scales(labels: Condition, ends: Sequence[float], seed: int) -> Condition:
    """Labels and scales of guidance [B, 2] float64: a scale drawn evenly between the ends by (seed, index)."""
    low, high = (float(end) for end in ends)

    def condition(indices: range) -> Tensor:
        drawn = [philox(seed, i, SCALE_DRAW).uniform(low, high) for i in indices]
        given = labels(indices)
        assert given is not None  # guidance needs classes
        return torch.stack([given.double(), torch.tensor(drawn, dtype=torch.float64)], 1)

    return condition


def _at_own_scales(alone: Callable[[Tensor | None], Denoise], null: int) -> Callable[[Tensor | None], Denoise]:
    """The denoiser of labels and scales [B, 2], from that of labels: every sample guided at its own scale."""

    def denoiser(condition: Tensor | None) -> Denoise:
        if condition is None:
            raise Error("this model needs a condition")
        labels = condition[:, 0].long()
        return guided(alone(labels), alone(torch.full_like(labels, null)), condition[:, 1])

    return denoiser
