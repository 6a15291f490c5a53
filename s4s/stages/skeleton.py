"""The network of a digits benchmark before it is trained: for counting and timing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from s4s.models.digits import CLASSES, DigitsUNet
from s4s.stages.cells import kind_of


def digits(config: Mapping[str, Any]) -> DigitsUNet:
    """With the weights it would start from."""
    kind = kind_of(config)
    classes = CLASSES if "label_dropout" in kind else 0
    net = DigitsUNet(config["model"]["channels"], 0.75, kind.get("process", "edm"), classes, kind.get("latents", 0))
    if net.autoencoder is not None:
        net.autoencoder.requires_grad_(False)
    return net
