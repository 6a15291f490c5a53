"""A stand-in for ComfyUI: what a sampler and a node of it meet, each rule as ComfyUI has it, none of its code.

``sample(sampler, sigmas, ...)`` is the way of a custom sampler from its node to the latent.
"""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
ALPHAS_CUMPROD = (1 - BETAS).cumprod(0)
LATENT_SCALE = 0.18215


class Discrete:
    """Noise and times of eps and v models: the network sees a training step, its input is scaled by the exact sigma."""

    def __init__(self, prediction: str = "eps") -> None:
        self.prediction = prediction
        self.sigmas = ((1 - ALPHAS_CUMPROD) / ALPHAS_CUMPROD).sqrt().float()

    sigma_max = property(lambda self: self.sigmas[-1])
    sigma_min = property(lambda self: self.sigmas[0])

    def timestep(self, sigma: Tensor) -> Tensor:
        return (sigma.log()[:, None] - self.sigmas.log()).abs().argmin(1)

    def network_input(self, sigma: Tensor, x: Tensor) -> Tensor:
        return x / (1 + sigma**2).sqrt()

    def denoised(self, sigma: Tensor, out: Tensor, x: Tensor) -> Tensor:
        if self.prediction == "eps":
            return x - sigma * out
        return x / (1 + sigma**2) - out * sigma / (1 + sigma**2).sqrt()

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent: Tensor, max_denoise: bool = False) -> Tensor:
        return noise * ((1 + sigma**2).sqrt() if max_denoise else sigma) + latent

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        return latent


class FlowTimes:
    """Noise and times of flow models: sigma is a time in [0, 1], the state is ``(1 - sigma) x_0 + sigma eps``."""

    def __init__(self, shift: float = 3.0) -> None:
        t = torch.arange(1, 1001) / 1000
        self.sigmas = shift * t / (1 + (shift - 1) * t)

    sigma_max = property(lambda self: self.sigmas[-1])
    sigma_min = property(lambda self: self.sigmas[0])

    def timestep(self, sigma: Tensor) -> Tensor:
        return 1000 * sigma

    def network_input(self, sigma: Tensor, x: Tensor) -> Tensor:
        return x

    def denoised(self, sigma: Tensor, out: Tensor, x: Tensor) -> Tensor:
        return x - sigma * out

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent: Tensor, max_denoise: bool = False) -> Tensor:
        return sigma * noise + (1 - sigma) * latent

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        return latent / (1 - sigma)


def network(x: Tensor, t: Tensor) -> Tensor:
    """Of any prediction; not linear in the state nor in the time [B]."""
    return torch.tanh(0.8 * x + 0.3 * (t.to(x) / 300).sin().reshape(-1, 1, 1, 1))


class Model:
    """A model as nodes get it, and what a sampler calls inside."""

    def __init__(self, sampling: Any) -> None:
        self.model_sampling = sampling
        self.told: list[Tensor] = []
        self.inputs: list[Tensor] = []

    def get_model_object(self, name: str) -> Any:
        return getattr(self, name)

    def apply(self, x: Tensor, sigma: Tensor) -> Tensor:
        assert sigma.shape == (len(x),) and sigma.dtype == x.dtype
        wide = sigma.reshape(-1, *[1] * (x.ndim - 1))
        self.told.append(self.model_sampling.timestep(sigma))
        self.inputs.append(self.model_sampling.network_input(wide, x))
        return self.model_sampling.denoised(wide, network(self.inputs[-1], self.told[-1]), x)


class Guider:
    """Between sampler and model; it knows the model only while it samples."""

    inner_model: Model

    def __call__(self, x: Tensor, sigma: Tensor, model_options: Any, seed: int | None) -> Tensor:
        assert torch.is_inference_mode_enabled() and model_options == {"transformer_options": {}} and seed == 5
        return self.inner_model.apply(x, sigma)


class Masked:
    """What a sampler function calls: with a mask, the known part of the state is put back."""

    def __init__(self, guider: Guider, noise: Tensor, latent: Tensor) -> None:
        self.inner_model, self.noise, self.latent_image = guider, noise, latent

    def __call__(self, x: Tensor, sigma: Tensor, denoise_mask: Tensor | None, **options: Any) -> Tensor:
        out = self.inner_model(x, sigma, **options)
        return out if denoise_mask is None else out * denoise_mask + self.latent_image * (1 - denoise_mask)


class KSAMPLER:
    """A SAMPLER made of a function."""

    def __init__(self, sampler_function: Callable[..., Tensor], extra_options: dict[str, Any] | None = None) -> None:
        self.sampler_function, self.extra_options = sampler_function, extra_options or {}

    def sample(self, guider: Guider, sigmas: Tensor, extra_args: Any, callback: Any, noise: Tensor, latent: Tensor,
               denoise_mask: Tensor | None = None, disable_pbar: bool = False) -> Tensor:  # fmt: skip
        extra_args["denoise_mask"] = denoise_mask
        sampling = guider.inner_model.model_sampling
        top, first, total = float(sampling.sigma_max), float(sigmas[0]), len(sigmas) - 1
        most = math.isclose(top, first, rel_tol=1e-5) or first > top
        x = sampling.noise_scaling(sigmas[0], noise, latent, most)
        told = None if callback is None else lambda step: callback(step["i"], step["denoised"], step["x"], total)
        model = Masked(guider, noise, latent)
        samples = self.sampler_function(
            model, x, sigmas, extra_args=extra_args, callback=told, disable=disable_pbar, **self.extra_options
        )
        return sampling.inverse_noise_scaling(sigmas[-1], samples)


def sample(sampler: KSAMPLER, sigmas: Tensor, model: Model, noise: Tensor, **options: Any) -> Tensor:
    """Options: ``latent``, ``callback`` as (i, denoised, x, total), ``mask``. The result is the latent."""
    guider = Guider()
    latent = options.get("latent", torch.zeros_like(noise))
    with torch.inference_mode():
        guider.inner_model = model
        try:
            return sampler.sample(guider, sigmas, {"model_options": {"transformer_options": {}}, "seed": 5},
                                  options.get("callback"), noise.clone(), LATENT_SCALE * latent, options.get("mask"),
                                  True)  # fmt: skip
        finally:
            del guider.inner_model


class _Socket:
    """An input or output of a node's schema: what it was made with."""

    def __init__(self, kind: str, *names: Any, **options: Any) -> None:
        self.kind, self.names, self.options = kind, names, options


def _kind(name: str) -> Any:
    def socket(*names: Any, **options: Any) -> _Socket:
        return _Socket(name, *names, **options)

    return types.SimpleNamespace(Input=socket, Output=socket)


class _Schema:
    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


class _Output:
    def __init__(self, *results: Any) -> None:
        self.result = results


class _Extension:
    async def get_node_list(self) -> list[Any]:
        raise NotImplementedError


def install(models: Path, patch: pytest.MonkeyPatch) -> None:
    """The modules that nodes import, with ``models`` as ComfyUI's folder of models."""
    kinds = {name: _kind(name.upper()) for name in ("Model", "Sampler", "Sigmas", "Combo", "Int", "String")}
    io = types.SimpleNamespace(ComfyNode=object, Schema=_Schema, NodeOutput=_Output, Custom=_kind, **kinds)
    places: dict[str, Path] = {}
    modules: dict[str, dict[str, Any]] = {
        "comfy": {},
        "comfy.samplers": {"KSAMPLER": KSAMPLER},
        "comfy_api": {},
        "comfy_api.latest": {"io": io, "ComfyExtension": _Extension},
        "folder_paths": {
            "models_dir": str(models),
            "add_model_folder_path": lambda name, place: places.update({name: Path(place)}),
            "get_filename_list": lambda name: [file.name for file in places[name].glob("*")],
            "get_full_path": lambda name, file: str(places[name] / file) if (places[name] / file).is_file() else None,
        },
    }
    for name, content in modules.items():
        module = types.ModuleType(name)
        module.__dict__.update(content)
        patch.setitem(sys.modules, name, module)
    patch.setattr(sys.modules["comfy"], "samplers", sys.modules["comfy.samplers"], raising=False)
    patch.delitem(sys.modules, "s4s.integrations.comfyui.nodes", raising=False)
