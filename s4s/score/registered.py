"""Our own extractors beside torch-fidelity's registry, and which of its are built from a file of tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s4s.errors import Error, extra
from s4s.models.digits import Classifier
from s4s.models.weights import load
from s4s.score.known import PYTORCH_FID

UNPICKLED = ("inception-v3-compat", PYTORCH_FID, "vgg16")  # torch-fidelity reads their weights as a pickle


class Digits(nn.Module):
    """The digits' own classifier, built as torch-fidelity builds an extractor, but without it: it is slow to import."""

    def __init__(self, name: str, layers: list[str], feature_extractor_weights_path: str | None = None, **_: Any):
        super().__init__()
        if feature_extractor_weights_path is None:
            raise Error("the feature extractor 'digits' needs the weights that `s4s train` wrote")
        self.classifier = load(Path(feature_extractor_weights_path), Classifier)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("64",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "64"

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.classifier.features(images.float() / 127.5 - 1),)


OURS = {"digits": Digits}


def registered() -> dict[str, Any]:
    """Extractor classes by name, ours among them. Those of torch-fidelity whose loaders run code are there too."""
    with extra("benchmark"):
        from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY as registry

    _register_pytorch_fid()
    return {**registry, **OURS}


def _register_pytorch_fid() -> None:
    """torch-fidelity's Inception fed as pytorch-fid does: float images in [0, 1], half-pixel bilinear, 2x - 1."""
    with extra("benchmark"):
        from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

    if PYTORCH_FID in FEATURE_EXTRACTORS_REGISTRY:
        return
    with extra("benchmark"):
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class PytorchFid(FeatureExtractorInceptionV3):  # type: ignore[misc]
        image_dtype = torch.float32

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("2048",)

        def forward(self, images: Tensor) -> tuple[Tensor]:
            x = 2 * F.interpolate(images, (299, 299), mode="bilinear", align_corners=False) - 1
            for name, layer in self.named_children():
                x = x if name == "fc" else layer(x)
            return (x.flatten(1),)

    register_feature_extractor(PYTORCH_FID, PytorchFid)
