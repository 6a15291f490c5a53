"""The networks that the pipeline trains: those of the digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s4s.errors import Error
from s4s.models import weights
from s4s.models.digits import Classifier, DigitsUNet, Perceptual
from s4s.stages import train
from s4s.stages.bench import Bench
from s4s.stages.cells import kind_of, made_from

NETWORKS = {"denoiser": DigitsUNet, "features": Classifier, "perceptual": Perceptual}


def train_network(bench: Bench, kind: str) -> Path:
    """Train ``denoiser``, ``features`` or ``perceptual`` and save its weights."""
    model = bench.config["model"]
    if model["type"] != "digits":
        raise Error(f"model type {model['type']} is published, not trained: run `s4s download` instead")
    if kind == "denoiser":
        what = train.Kind(**kind_of(bench.config))
        net = train.train_denoiser(model["seed"], model["steps"], model["batch"], channels=model["channels"], kind=what)
    else:
        offset = 1 + list(NETWORKS).index(kind)
        net = train.train_classifier(NETWORKS[kind], model["seed"] + offset, model["classifier_steps"])
    path = bench.folder.model(kind)
    extra = {} if kind == "denoiser" else {"accuracy": train.accuracy(net)}
    weights.save(net, path, made_from=made_from(bench.config, "train"), **extra)
    bench.chain.note(path, "train", {})
    return path


def network(bench: Bench, kind: str) -> Any:
    """A trained network of this config."""
    path = bench.folder.model(kind)
    bench.chain.read(path)
    return weights.load(path, NETWORKS[kind])
