"""What is known of extractors by their names. Nothing here imports torch: Snakemake reads this on every start."""

from __future__ import annotations

PYTORCH_FID = "inception-v3-pytorch-fid"  # it takes floats; all others of torch-fidelity take 8-bit images
OF_RGB = ("inception", "vgg", "clip", "dinov2")  # how the names of torch-fidelity's own extractors begin


def channels_of(extractor: str) -> int | None:
    """Channels of the images that an extractor takes; None for one that others have registered."""
    return 1 if extractor == "digits" else 3 if extractor.startswith(OF_RGB) else None
