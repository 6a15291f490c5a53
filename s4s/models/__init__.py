"""One file per model family: load weights, become a ``Model`` with a ``denoise``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s4s.errors import Error, choose

if TYPE_CHECKING:
    from s4s.models.model import Model

Load = Callable[..., "Model"]


def load_model(
    spec: Mapping[str, Any], weights: Path | None = None, *, device: str = "cpu", offline: bool = False
) -> Model:
    """A pretrained model, frozen and ready to sample from.

    Args:
        spec: the ``model`` section of a config: ``type``, one of ``MODELS``, and settings of that type.
        weights: trained or imported file (``digits``; ``edm``, ``ldm``), or local folder (``stable-diffusion``,
            ``diffusers``).
        device: where the network goes.
        offline: never touch the network.

    Raises:
        Error: unknown type or setting, missing, damaged or unsupported weights.
    """
    if not isinstance(spec, Mapping):
        raise Error(f'a model is a mapping with its type, such as {{"type": "diffusers"}}, got {spec!r:.60}')
    kind = spec.get("type")
    if not isinstance(kind, str) or kind not in MODELS:
        raise choose("model type", kind, MODELS)
    return MODELS[kind](spec, weights, device=device, offline=offline)


def _lazy(module: str) -> Load:
    """``load`` of a module of this package, imported on first use: some of them take seconds."""
    return lambda *args, **options: importlib.import_module(f"s4s.models.{module}").load(*args, **options)


MODELS: dict[str, Load] = {
    "digits": _lazy("digits_model"),
    "edm": _lazy("edm_model"),
    "ldm": _lazy("ldm"),
    "stable-diffusion": _lazy("stable_diffusion"),
    "diffusers": _lazy("diffusers_model"),
}
