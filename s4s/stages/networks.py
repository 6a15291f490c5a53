"""The networks that the pipeline trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from s4s import train
from s4s.config import made_from
from s4s.models import weights
from s4s.models.digits import Classifier, DigitsUNet, Perceptual
from s4s.stages.files import Config, Folder, expect

NETWORKS = {"denoiser": DigitsUNet, "features": Classifier, "perceptual": Perceptual}


def train_network(config: Config, results: Path, kind: str) -> Path:
    """Train ``denoiser``, ``features`` or ``perceptual`` and save its weights."""
    model = config["model"]
    if kind == "denoiser":
        net = train.train_denoiser(model["seed"], model["steps"], model["batch"], channels=model["channels"])
    else:
        offset = 1 + list(NETWORKS).index(kind)
        net = train.train_classifier(kind, model["seed"] + offset, model["classifier_steps"])
    path = Folder(config, results).model(kind)
    extra = {} if kind == "denoiser" else {"accuracy": train.accuracy(net)}
    weights.save(net, path, made_from=made_from(config, "train"), **extra)
    return path


def network(config: Config, results: Path, kind: str) -> Any:
    """A trained network of this config."""
    path = Folder(config, results).model(kind)
    net = weights.load(path, NETWORKS[kind])
    with safe_open(path, framework="pt") as file:
        expect(path, json.loads(file.metadata()["record"])["made_from"], made_from(config, "train"))
    return net
